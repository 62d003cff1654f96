"""Soft masks -> data/masks/ (archives, threshold) and data/davis/ (PNG folders, DAVIS layout), refined by the CRF.

The same CRF on the masks of detector and synthesis network without the student -> data/masks_paper/.
"""

import argparse
from pathlib import Path

from backdrop.io.files import copy_files
from backdrop.io.masks import read_threshold, same_predictions, write_threshold
from backdrop.params import load_params
from backdrop.refine.parameters import RefineStage
from backdrop.refine.stage import choose_refined_threshold, refine_all
from backdrop.run.processes import pool
from backdrop.stage import run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=Path, required=True)
    parser.add_argument("--predictions", type=Path, required=True)
    parser.add_argument("--predictions-paper", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--out-paper", type=Path, required=True)
    parser.add_argument("--davis", type=Path, required=True)
    args = parser.parse_args()
    params = load_params(RefineStage)

    def refine(predictions: Path, out: Path, davis: Path | None, workers: int) -> None:
        threshold, chosen_on = choose_refined_threshold(args.frames, predictions, params.crf, workers)
        refine_all(args.frames, predictions, out, davis, params.crf, threshold, workers)
        write_threshold(out, threshold, chosen_on)

    read_threshold(args.predictions_paper)  # if it is missing, it is named before anything is computed
    with pool(params.compute) as workers:
        refine(args.predictions, args.out, args.davis, workers)
        if same_predictions(args.predictions, args.predictions_paper):  # no student: the same masks, then
            copy_files(args.out, args.out_paper)
        else:
            refine(args.predictions_paper, args.out_paper, None, workers)


if __name__ == "__main__":
    run(main)
