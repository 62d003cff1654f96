"""Frame pairs -> data/homographies/<sequence>.npz: SIFT, ratio test, MAGSAC."""

import argparse
from pathlib import Path

from backdrop.params import load_params
from backdrop.run.processes import pool
from backdrop.stabilize.parameters import StabilizeStage
from backdrop.stabilize.stage import stabilize_all
from backdrop.stage import run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    params = load_params(StabilizeStage)
    with pool(params.compute) as workers:
        stabilize_all(args.frames, args.out, params.stabilize, workers)


if __name__ == "__main__":
    run(main)
