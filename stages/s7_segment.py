"""Frames -> data/predictions/: soft masks, boxes, cell probabilities, and the threshold.

The same of detector and synthesis network without the student, the papers' method -> data/predictions_paper/.
"""

import argparse
from pathlib import Path

from backdrop.params import load_params
from backdrop.run.processes import pool
from backdrop.segment.parameters import SegmentStage
from backdrop.segment.stage import SegmentFolders, segment_all
from backdrop.stage import run
from backdrop.thresholds import choose_threshold


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--frames", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--out-paper", type=Path, required=True)
    parser.add_argument("--checkpoints", type=Path, default=Path("runs"))
    args = parser.parse_args()
    params = load_params(SegmentStage)
    folders = SegmentFolders(args.model, args.frames, args.out, args.out_paper, args.checkpoints)
    with pool(params.compute) as workers:
        segment_all(folders, params.segment, workers, params.compute.device, choose_threshold)


if __name__ == "__main__":
    run(main)
