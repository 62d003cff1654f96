"""The benchmark of what masks tell of their own J: its measures, its fit, and its tables."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from backdrop.doubts import Doubt
from backdrop.errors import BackdropError
from benchmarks import quality
from benchmarks.quality import (
    SIGNS,
    color_contrast,
    compactness,
    left_out_fit,
    lines,
    measures,
    rank_correlation,
    result,
    told_by_doubts,
)
from tests.scored_project import scored_project


def by_hand(seed: int = 0) -> pd.DataFrame:
    """Three runs in which `sure` is J and noise, `presence` the opposite, and all else noise."""
    rng = np.random.default_rng(seed)
    j = rng.uniform(0, 1, 90)
    table = pd.DataFrame({sign: rng.uniform(0, 1, 90) for sign in SIGNS})
    table["sure"], table["presence"] = j + rng.normal(0, 0.05, 90), 1 - j
    doubts = [[Doubt.unsure.value] if value < 0.3 else [] for value in j]
    return table.assign(run=["a", "b", "c"] * 30, sequence="s", J=j, doubts=doubts)


def test_the_fit_finds_what_tells_j_in_runs_that_it_has_not_seen() -> None:
    table = by_hand()
    assert (rank_correlation(left_out_fit(table, SIGNS), table["J"].to_numpy()) or 0) > 0.9
    changed = table.copy()
    changed.loc[changed["run"] == "a", "J"] = 0.5
    own = (table["run"] == "a").to_numpy()
    assert np.allclose(left_out_fit(table, SIGNS)[own], left_out_fit(changed, SIGNS)[own]), "its own J is not asked"


def test_weights_have_one_sign() -> None:
    table = by_hand()
    assert np.ptp(left_out_fit(table, ["presence"])[(table["run"] == "a").to_numpy()]) < 1e-9


def test_doubts_are_counted_against_bad_masks() -> None:
    rows = {row["doubt"]: row for row in told_by_doubts(by_hand())}
    assert rows["unsure"]["bad_among_them"] == 1
    assert rows["any"]["frames"] == rows["unsure"]["frames"]
    assert rows["empty"] == {"doubt": "empty", "frames": 0, "J": None, "J_others": rows["empty"]["J_others"],
                             "bad_among_them": None, "of_all_bad": 0.0}  # fmt: skip


def test_tables_have_a_column_per_run_and_a_row_per_measure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quality, "SIGNS", SIGNS[:3])
    said = lines(result(by_hand()))
    assert said[0] == "| rank correlation with J | all | a | b | c |"
    assert sum(line.startswith(f"| {SIGNS[0]} |") for line in said) == 1
    assert said[-1].startswith("| any |")


def test_shapes_and_colors_are_measured() -> None:
    disk, bar = (np.zeros((120, 120), np.uint8) for _ in range(2))
    cv2.circle(disk, (60, 60), 30, 1, -1)
    bar[58:62, 5:115] = 1
    assert compactness(disk > 0) > 0.8 > 0.3 > compactness(bar > 0)
    assert compactness(np.zeros((4, 4), bool)) == 0
    image = np.where(disk[..., None] > 0, np.uint8((220, 20, 20)), np.uint8((20, 150, 20))).astype(np.uint8)
    assert color_contrast(image, disk > 0) > 0.9 > 0.2 > color_contrast(image, bar > 0)


def test_a_finished_run_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = scored_project(tmp_path)
    table = measures(project)
    assert set(SIGNS) <= set(table.columns)
    assert len(table)
    assert table[list(SIGNS)].to_numpy(float).min() >= 0
    (tmp_path / "empty").mkdir()
    out = tmp_path / "quality.json"
    monkeypatch.setattr("sys.argv", ["quality", str(project), str(tmp_path / "empty"), "--out", str(out)])
    with pytest.raises(BackdropError, match="two finished runs"):
        quality.main()
    assert not out.exists()
