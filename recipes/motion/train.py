"""Rendered collages -> the weights of the motion network, which the cue `motion` uses."""

import argparse
from pathlib import Path

from backdrop.collage.parameters import CollageStage
from backdrop.collage.training import MotionTraining
from backdrop.config.reading import read_checked
from backdrop.stage import run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="samples and resume state")
    parser.add_argument("--log", type=Path, required=True, help="curves")
    parser.add_argument("--out", type=Path, required=True, help="weights, safetensors")
    args = parser.parse_args()
    MotionTraining(read_checked(CollageStage, Path("params.yaml")), args.work, args.log).run(args.out)


if __name__ == "__main__":
    run(main)
