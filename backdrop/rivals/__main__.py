"""The comparison's commands; `dvc repro rivals/dvc.yaml` runs them all.

python -m backdrop.rivals footage davis              # make its frames available
python -m backdrop.rivals cell video_pca davis       # one rival on one footage; goes on where it was stopped
python -m backdrop.rivals cell video_pca davis --only boat swing
python -m backdrop.rivals table                      # metrics/rivals.json, docs/rivals.md and its contact sheet
"""

from __future__ import annotations

import argparse

from backdrop.rivals.cells import WORK, run_cell, run_sequence
from backdrop.rivals.footage import write_manifest
from backdrop.rivals.summary import write_summary
from backdrop.stage import run


def rivals_main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m backdrop.rivals", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    footage = commands.add_parser("footage", help="make a footage's frames available")
    footage.add_argument("footage")
    cell = commands.add_parser("cell", help="one rival on one footage")
    cell.add_argument("rival")
    cell.add_argument("footage")
    cell.add_argument("--only", nargs="*", help="names of sequences")
    cell.add_argument("--again", action="store_true", help="also sequences that are done")
    sequence = commands.add_parser("sequence", help="one sequence in this process, not scored (what a cell calls)")
    for name in ("rival", "footage", "sequence"):
        sequence.add_argument(name)
    commands.add_parser("table", help="write the table of all cells")
    args = parser.parse_args()
    if args.command == "footage":
        write_manifest(args.footage, WORK / "footage" / f"{args.footage}.json")
    elif args.command == "cell":
        run_cell(args.rival, args.footage, args.only, args.again)
    elif args.command == "sequence":
        run_sequence(args.rival, args.footage, args.sequence)
    else:
        write_summary()


if __name__ == "__main__":
    run(rivals_main)
