"""Soft masks -> data/masks/ (archives, threshold) and data/davis/ (PNG folders, DAVIS layout), refined by the CRF.

With `crf.enabled: auto` it is left out where it takes masks away from what the student learned, data/pseudo_masks/.
The same on the masks of detector and synthesis network without the student, as far as there are any ->
data/masks_paper/.
"""

import argparse
from pathlib import Path

from backdrop.io.files import copy_files
from backdrop.io.masks import read_threshold, same_predictions, write_threshold
from backdrop.params import load_params
from backdrop.refine.parameters import RefineStage
from backdrop.refine.stage import RefineFolders, choose_refined_threshold, refine_all
from backdrop.refine.worth import as_decided
from backdrop.run.processes import pool
from backdrop.stage import run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=Path, required=True)
    parser.add_argument("--predictions", type=Path, required=True)
    parser.add_argument("--predictions-paper", type=Path, required=True)
    parser.add_argument("--pseudo-masks", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--out-paper", type=Path, required=True)
    parser.add_argument("--davis", type=Path, required=True)
    parser.add_argument("--checkpoints", type=Path, default=Path("runs"))
    args = parser.parse_args()
    params = load_params(RefineStage)
    shipped = RefineFolders(args.frames, args.predictions, args.out, args.davis, args.checkpoints)
    paper = RefineFolders(args.frames, args.predictions_paper, args.out_paper, kept=args.checkpoints, truth_alone=True)

    def refine(folders: RefineFolders, workers: int) -> None:
        crf = as_decided(folders, args.pseudo_masks, params.crf, workers)
        threshold, chosen_on = choose_refined_threshold(folders, crf, workers)
        refine_all(folders, crf, threshold, workers)
        write_threshold(folders.masks, threshold, chosen_on, bool(crf.enabled))

    read_threshold(args.predictions_paper)  # if it is missing, it is named before anything is computed
    with pool(params.compute) as workers:
        refine(shipped, workers)
        if same_predictions(args.predictions, args.predictions_paper):  # no student: the masks are the same
            copy_files(args.out, args.out_paper)
        elif any(args.predictions_paper.glob("*.zip")):
            refine(paper, workers)
        else:  # no sequence has truth to score them by
            args.out_paper.mkdir(parents=True, exist_ok=True)
            write_threshold(args.out_paper, *read_threshold(args.predictions_paper))


if __name__ == "__main__":
    run(main)
