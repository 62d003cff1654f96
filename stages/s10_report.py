"""metrics/, masks and frames -> metrics/report.html, one file for a person to read, and its pictures as DVC plots."""

import argparse
from pathlib import Path

from backdrop.params import load_params
from backdrop.report.parameters import ReportStage
from backdrop.report.report import write_report
from backdrop.stage import run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--project", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--plots", type=Path, required=True)
    args = parser.parse_args()
    # What it shows of params.yaml; `compute` may be that of an earlier run.
    load_params(ReportStage)
    write_report(args.project, args.out, args.plots)


if __name__ == "__main__":
    run(main)
