"""The numbers on the report's page: metrics/scores.json and per_sequence.csv in words, cards and rows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from backdrop.errors import BackdropError
from backdrop.io.files import show

NAMES = {
    "method": "Backdrop, what ships",
    "method_raw": "the same before the CRF",
    "method_best_threshold": "before the CRF, oracle threshold",
    "d_and_s": "detector and synthesis alone",
    "d_and_s_raw": "the same before the CRF",
    "d_and_s_best_threshold": "before the CRF, oracle threshold",
    "flow_threshold": "baseline: thresholded flow",
    "flow_best_threshold": "the same, oracle threshold",
    "mog2": "baseline: MOG2",
    "mog2_best_threshold": "the same, oracle threshold",
}
"""Results as scores.json names them, and what the page calls them."""

ALSO_CALLED = ("p2020", "p2021", "p2022", "method_paper")
"""What stands for `d_and_s` in scores.json after a run of a preset, and in files of before it had that name."""

REPORT_COLUMNS = ("J_mean", "F_mean", "precision", "recall", "mAP50", "box_hit50", "centre_hit", "threshold")

BASELINES = ("flow_threshold", "mog2")


def read_scores(project: Path) -> dict[str, Any]:
    """metrics/scores.json.

    Raises:
        BackdropError: it is missing, or it holds no scores.
    """
    path = project / "metrics" / "scores.json"
    try:
        scores = json.loads(path.read_text(encoding="utf-8"))
        return scores | {"frames_scored": int(scores["frames_scored"])}
    except FileNotFoundError:
        raise BackdropError(f"{show(path)} does not exist: run `dvc repro`, or name the project's folder") from None
    except (ValueError, KeyError, TypeError) as fault:
        raise BackdropError(f"{show(path)} holds no scores ({fault}): run the stage score again") from fault


def result_of(scores: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    """The scores of a result, also of a baseline, and of D and S under another name; None where it is missing."""
    names = [name] + [name.replace("d_and_s", other) for other in ALSO_CALLED if name.startswith("d_and_s")]
    found = (scores.get(one) or scores.get("baselines", {}).get(one) for one in names)
    return next((values for values in found if values), None)


def j_mean(table: pd.DataFrame, sequence: str, result: str) -> float | None:
    """Mean J of a sequence by per_sequence.csv, in [0, 1]; None where the result is missing."""
    values = table.loc[(table["sequence"] == sequence) & (table["result"] == result), "J_mean"]
    return float(values.iloc[0]) if len(values) else None


def margin(table: pd.DataFrame, sequence: str) -> float | None:
    """J of what ships less that of the better baseline; None where one is missing."""
    ours = j_mean(table, sequence, "method")
    others = [value for name in BASELINES if (value := j_mean(table, sequence, name)) is not None]
    return None if ours is None or not others else ours - max(others)


def verdict(scores: Mapping[str, Any], table: pd.DataFrame) -> str:
    """One sentence for a person who does not read the table."""
    names = dict.fromkeys(table["sequence"])
    margins = [value for name in names if (value := margin(table, name)) is not None]
    better = sum(value > 0 for value in margins)
    j = scores["method"]["J_mean"]
    start = f"On average {j:.0%} of the union of mask and truth is common to both (J {j:.2f}). "
    if not margins:
        return start + "There is no baseline to compare with."
    of = f"{len(margins)} sequence{'s' * (len(margins) != 1)}"
    return f"{start}Both baselines, which need no training, are beaten on {better} of {of}."


def score_cards(scores: Mapping[str, Any]) -> list[dict[str, str]]:
    """The large figures at the top of the page: value, name and note of each."""
    ours = scores["method"]
    cards = [
        {"value": f"{ours['J_mean']:.2f}", "name": "J", "note": "overlap of masks"},
        {"value": f"{ours['F_mean']:.2f}", "name": "F", "note": "agreement of outlines"},
    ]
    for key, name, note in (("mAP50", "box mAP 0.5", "boxes"), ("centre_hit", "center hit", "boxes on the subject")):
        if ours.get(key) is not None:
            cards.append({"value": f"{ours[key]:.2f}", "name": name, "note": note})
    for name in BASELINES:
        found = result_of(scores, name)
        if found:
            cards.append({"value": f"{found['J_mean']:.2f}", "name": "J", "note": NAMES[name]})
    return cards


def score_rows(scores: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of the page's table: name, cells (`REPORT_COLUMNS`), and whether it is what ships."""
    rows = []
    for name, label in NAMES.items():
        found = result_of(scores, name)
        if found:
            cells = ["" if found.get(key) is None else f"{found[key]:.2f}" for key in REPORT_COLUMNS]
            cells[-1] = f"{cells[-1]} ({str(found.get('threshold_chosen_on')).split(':')[0]})"
            rows.append({"name": label, "cells": cells, "ship": name == "method"})
    return rows
