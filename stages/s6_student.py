"""Frames, homographies and models/joint/ -> models/segmenter/ and data/pseudo_masks/: self-training rounds; the student
segments."""

import argparse
from pathlib import Path

from backdrop.params import load_params
from backdrop.stage import run
from backdrop.student.labels.files import labels_place
from backdrop.student.parameters import StudentFolders, StudentStage
from backdrop.student.rounds import SelfTraining, pass_through


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--joint", type=Path, required=True)
    parser.add_argument("--frames", type=Path, required=True)
    parser.add_argument("--homographies", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pseudo-masks", type=Path, required=True)
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--checkpoints", type=Path, default=Path("runs"))
    args = parser.parse_args()
    params = load_params(StudentStage)
    if params.student.rounds == 0:
        pass_through(args.joint, args.out, args.log, args.pseudo_masks)
        return
    labels = labels_place(params.labels, params.footage)
    folders = StudentFolders(args.joint, args.frames, args.homographies, args.log, args.checkpoints, labels)
    SelfTraining(params, folders).run(args.out, args.pseudo_masks)


if __name__ == "__main__":
    run(main)
