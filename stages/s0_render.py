"""The embedded footage -> data/footage/: real video files and their exact masks."""

import argparse
from pathlib import Path

from backdrop.params import load_params
from backdrop.render.parameters import RenderStage
from backdrop.render.stage import render_all
from backdrop.run.processes import pool
from backdrop.stage import run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    params = load_params(RenderStage)
    args.out.mkdir(parents=True, exist_ok=True)
    if params.layout != "synthetic":
        (args.out / "UNUSED.txt").write_text(f"data.layout is {params.layout}: no footage was rendered.\n")
        return
    with pool(params.compute) as workers:
        render_all(args.out, params.footage, workers)


if __name__ == "__main__":
    run(main)
