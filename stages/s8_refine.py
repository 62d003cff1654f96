"""Soft masks -> data/masks/ (archives) and data/davis/ (PNG folders in the DAVIS layout), refined by the CRF."""

import argparse
from pathlib import Path

from backdrop.crf import refine_all
from backdrop.masks import read_threshold
from backdrop.params import load_params
from backdrop.stage import run, worker_count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=Path, required=True)
    parser.add_argument("--predictions", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--davis", type=Path, required=True)
    args = parser.parse_args()
    params = load_params("crf", "compute")
    threshold, _ = read_threshold(args.predictions)
    workers = worker_count(params.compute.workers)
    refine_all(args.frames, args.predictions, args.out, args.davis, params.crf, threshold, workers)


if __name__ == "__main__":
    run(main)
