"""Soft masks -> data/masks/ (archives) and data/davis/ (PNG folders in the DAVIS layout), refined by the CRF.

The same CRF on the masks of detector and synthesis network without the student -> data/masks_paper/.
"""

import argparse
import shutil
from pathlib import Path

from backdrop.crf import refine_all
from backdrop.masks import read_threshold, same_predictions
from backdrop.params import load_params
from backdrop.stage import run, worker_count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=Path, required=True)
    parser.add_argument("--predictions", type=Path, required=True)
    parser.add_argument("--predictions-paper", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--out-paper", type=Path, required=True)
    parser.add_argument("--davis", type=Path, required=True)
    args = parser.parse_args()
    params = load_params("crf", "compute")
    (threshold, _), (paper, _) = read_threshold(args.predictions), read_threshold(args.predictions_paper)
    workers = worker_count(params.compute.workers)
    refine_all(args.frames, args.predictions, args.out, args.davis, params.crf, threshold, workers)
    if same_predictions(args.predictions, args.predictions_paper):  # no student: the same masks, then
        shutil.copytree(args.out, args.out_paper, dirs_exist_ok=True)
    else:
        refine_all(args.frames, args.predictions_paper, args.out_paper, None, params.crf, paper, workers)


if __name__ == "__main__":
    run(main)
