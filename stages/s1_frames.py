"""Video files or image folders -> data/frames/<sequence>.zip and index.csv."""

import argparse
from pathlib import Path

from backdrop.frames.parameters import FramesStage
from backdrop.frames.stage import extract_all
from backdrop.params import load_params
from backdrop.run.processes import pool
from backdrop.stage import run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    params = load_params(FramesStage)
    data = params.data.model_copy(update={"root": params.data.place(Path.cwd())})
    with pool(params.compute) as workers:
        extract_all(data, args.out, workers)


if __name__ == "__main__":
    run(main)
