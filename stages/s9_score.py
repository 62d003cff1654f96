"""Masks and ground truth -> metrics/: scores.json, tables by sequence and frame, contact sheets, provenance."""

import argparse
import json
from pathlib import Path

from backdrop.io.files import atomic_path, sweep
from backdrop.io.index import read_videos
from backdrop.params import load_params
from backdrop.run.processes import pool
from backdrop.score.frame_scores import ScoreFolders
from backdrop.score.parameters import ScoreStage
from backdrop.score.provenance import provenance
from backdrop.score.sheets import contact_sheet_all
from backdrop.score.table import score_all
from backdrop.stage import run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=Path, required=True)
    parser.add_argument("--homographies", type=Path, required=True)
    parser.add_argument("--flow", type=Path, required=True)
    parser.add_argument("--predictions", type=Path, required=True)
    parser.add_argument("--predictions-paper", type=Path, required=True)
    parser.add_argument("--masks", type=Path, required=True)
    parser.add_argument("--masks-paper", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    params = load_params(ScoreStage)
    folders = ScoreFolders(
        frames=args.frames,
        predictions=args.predictions,
        masks=args.masks,
        predictions_paper=args.predictions_paper,
        masks_paper=args.masks_paper,
        flow=args.flow,
        homographies=args.homographies,
    )
    with pool(params.compute) as workers:
        scores = score_all(folders, params.layout, workers, params.preset)
    args.out.mkdir(parents=True, exist_ok=True)
    _write(args.out / "per_sequence.csv", scores.per_sequence.to_csv(index=False))
    _write(args.out / "per_frame.csv", scores.per_frame.to_csv(index=False))
    names = read_videos(args.frames, usable=True)["sequence"].tolist()
    contact_sheet_all(folders, args.out / "plots", names, scores.per_frame)
    facts = provenance(args.frames / "index.csv", params.seed, params.compute.device)
    _write(args.out / "provenance.json", json.dumps(facts, indent=2) + "\n")
    _write(args.out / "scores.json", json.dumps(scores.summary, indent=2) + "\n")


def _write(path: Path, text: str) -> None:
    sweep(path)
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    run(main)
