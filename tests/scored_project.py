"""A project that was scored, for what is made of scores: two sequences, curves, and a script where text stands."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from backdrop.score.table import score_all
from tests.handmade_run import make_run, score_folders, write_masks

FRAMES = 8
SCRIPT = "<script>alert(1)</script>"


def scored_project(folder: Path) -> Path:
    """`folder` with a scored run; the masks of "bad" are empty in its first two frames."""
    data = folder / "data"
    truth = make_run(data, {"good": "test", "bad": "test"}, FRAMES)
    write_masks(data / "masks", "bad", {t: np.zeros_like(m) if t < 2 else m for t, m in enumerate(truth["bad"])})
    metrics = folder / "metrics"
    losses = metrics / "train" / "plots" / "metrics" / "loss"
    losses.mkdir(parents=True)
    (losses / "fg.tsv").write_text("step\tfg\n0\t1.0\n10\t0.5\n")
    score(folder)
    (metrics / "provenance.json").write_text(json.dumps({"git_revision": SCRIPT, "seed": 0, "device": "cpu"}))
    (folder / "params.yaml").write_text(f"seed: 0  # {SCRIPT}\n")
    return folder


def score(project: Path) -> None:
    """Write the tables and scores.json of a project as its data stand."""
    scores, metrics = score_all(score_folders(project / "data"), "videos", 1), project / "metrics"
    scores.per_sequence.to_csv(metrics / "per_sequence.csv", index=False)
    scores.per_frame.to_csv(metrics / "per_frame.csv", index=False)
    (metrics / "scores.json").write_text(json.dumps(scores.summary))
