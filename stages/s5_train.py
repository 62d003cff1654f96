"""Frames, flow and the frozen inpainters -> models/joint/: joint training of detector and synthesis network."""

import argparse
from pathlib import Path

from backdrop.params import load_params
from backdrop.stage import run
from backdrop.train.joint import JointTraining
from backdrop.train.parameters import TrainFolders, TrainStage


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=Path, required=True)
    parser.add_argument("--homographies", type=Path, required=True)
    parser.add_argument("--flow", type=Path, required=True)
    parser.add_argument("--inpainter-rgb", type=Path, required=True)
    parser.add_argument("--inpainter-flow", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--checkpoints", type=Path, default=Path("runs"))
    args = parser.parse_args()
    params = load_params(TrainStage)
    inpainters = (args.inpainter_rgb, args.inpainter_flow)
    folders = TrainFolders(args.frames, args.homographies, args.flow, *inpainters, args.log, args.checkpoints)
    JointTraining(params, folders).run(args.out)


if __name__ == "__main__":
    run(main)
