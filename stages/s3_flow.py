"""Stabilized pairs -> data/flow/<sequence>.zip: optical flow."""

import argparse
from pathlib import Path

from backdrop.flow.parameters import FlowStage
from backdrop.flow.stage import FlowFolders, flow_all
from backdrop.params import load_params
from backdrop.run.processes import pool
from backdrop.stage import run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=Path, required=True)
    parser.add_argument("--homographies", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    params = load_params(FlowStage)
    with pool(params.compute) as workers:
        flow_all(FlowFolders(args.frames, args.homographies, args.out), params.flow, workers, params.compute.device)


if __name__ == "__main__":
    run(main)
