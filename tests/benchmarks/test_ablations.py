"""The ablation grids: every row is valid and changes what it says, and the tables say what the results say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from backdrop.errors import BackdropError
from backdrop.params import compose_params, read
from benchmarks import ablations
from benchmarks.ablation_grids import GRIDS, IMAGES, OURS, PAPERS, PAPERS_ROWS, SEEDS, Grid
from benchmarks.ablations import Task, cell, collect, digest, keep_known, markers, pairs, place, table, tasks

ROOT = Path(__file__).parents[2]
ROWS = sorted(path.stem for path in (ROOT / "conf" / "ablation").glob("*.yaml"))


def flat(values: dict[str, Any], above: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= flat(value, f"{above}{key}.") if isinstance(value, dict) else {f"{above}{key}": value}
    return found


def composed(tmp_path: Path, row: str, grid: Grid = OURS) -> dict[str, Any]:
    compose_params(grid.overrides(row, 0), tmp_path / "params.yaml", ROOT / "conf")
    read(tmp_path / "params.yaml")
    return flat(yaml.safe_load((tmp_path / "params.yaml").read_text()))


def test_the_grids_run_every_row_that_there_is() -> None:
    assert {row for row, _ in pairs(OURS)} == set(ROWS)
    assert {row for row, _ in pairs(PAPERS)} == set(PAPERS_ROWS)
    for grid in GRIDS.values():
        assert len(pairs(grid)) == len(set(pairs(grid)))
    assert pairs(OURS, ["flow_off"]) == [("flow_off", 0)]
    assert pairs(OURS, ["sampling_gumbel"]) == [("sampling_gumbel", seed) for seed in (0, 1)]
    assert pairs(PAPERS, ["flow_joint"]) == [("flow_joint", seed) for seed in SEEDS]
    with pytest.raises(BackdropError, match="flow_of; the rows are .*flow_off"):
        pairs(OURS, ["flow_of"])


@pytest.mark.parametrize("row", sorted(set(PAPERS_ROWS) - {PAPERS.reference}))
def test_each_row_of_the_papers_grid_is_valid_and_changes_its_own_keys_alone(row: str, tmp_path: Path) -> None:
    reference, changed = composed(tmp_path, PAPERS.reference, PAPERS), composed(tmp_path, row, PAPERS)
    own = {change.partition("=")[0] for change in PAPERS_ROWS[row]}
    different = {key for key in changed if changed[key] != reference[key]}
    assert own == different, "a change that the aided preset has already"
    assert reference["preset"] == changed["preset"] == "p2022"
    assert changed["train.box_start"] == 1.1


def test_the_papers_grid_crosses_background_flow_and_gradients(tmp_path: Path) -> None:
    keys = ("background.kind", "loss.alpha_flow", "loss.disentangled")
    crossed = {row: composed(tmp_path, row, PAPERS) for row in [PAPERS.groups[0].base, *PAPERS.groups[0].rows]}
    assert {tuple(values[key] for key in keys) for values in crossed.values()} == {
        (kind, flow, separated) for kind in ("inpaint", "median") for flow in (0.1, 0.0) for separated in (True, False)
    }
    last = crossed["images_separated"]["train.iterations"]
    assert f"train.offset_fixed={last}" in IMAGES, "without flow, boxes keep still to the end"


@pytest.mark.parametrize("row", ROWS)
def test_each_row_is_valid_and_changes_its_own_keys_alone(
    row: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ablations.WEIGHTS, "some/folder")
    reference, changed = composed(tmp_path, "none"), composed(tmp_path, row)
    own = flat(yaml.safe_load((ROOT / "conf" / "ablation" / f"{row}.yaml").read_text()) or {})
    assert set(own) >= {key for key in changed if changed[key] != reference[key]}
    if row != "encoder_file":
        assert all(changed[key] == value for key, value in own.items())
    assert row == "none" or changed != reference


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ("sampling_importance_1", {"sampling.kind": "importance", "sampling.cells": 1, "sampling.baseline": "none"}),
        ("sampling_gumbel", {"sampling.kind": "gumbel"}),
        ("entangled", {"loss.disentangled": False, "loss.beta": 1.0}),
        ("only_bg", {"loss.disentangled": False, "loss.beta": 0.0, "loss.eta": 0.0, "loss.alpha": 0.1}),
        ("direct_box", {"detector.grid": 1, "loss.disentangled": False}),
        ("encoder_file", {"encoder.weights": "imagenet", "encoder.perceptual": "imagenet"}),
        ("lambda_001_box_20_80", {"lambda": 0.001, "detector.scale": [0.2, 0.8], "train.box_fixed": 0}),
        ("flow_off", {"loss.alpha_flow": 0.0}),
        ("student_2", {"student.rounds": 2}),
    ],
)
def test_rows_hold_what_their_names_say(
    row: str, expected: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(ablations.WEIGHTS, raising=False)
    values = composed(tmp_path, row)
    assert {key: values[key] for key in expected} == expected


def entry(row: str, seed: int, **changes: float) -> dict[str, Any]:
    figures = dict.fromkeys(OURS.columns, 0.5) | changes
    return {"row": row, "seed": seed, "params": "0", "revision": "0", "figures": figures}


def test_the_table_shows_means_ranges_and_what_is_missing() -> None:
    results = [entry("none", seed, J=0.4 + seed / 10) for seed in (2, 0, 1)]
    results += [entry("only_bg", 0, J=0.1), entry("flow_off", 0, J=0.25)]
    lines = table(OURS, results, {"encoder_file": "needs a folder."}).splitlines()
    assert "| reference | 0, 1, 2 | 0.50 (0.50–0.50) | 0.50 (0.50–0.50) | 0.50 (0.50–0.50) | 0.50 (0.40–0.60) |" in (
        next(line for line in lines if line.startswith("| reference | 0, 1, 2"))
    )
    assert "| flow_off | 0 | 0.50 | 0.50 | 0.50 | 0.25 | 0.50 | 0.50 |" in lines
    assert "| only_bg | 0 | 0.50 | 0.50 | – | – | – | – |" in lines
    assert "| crf_off | not run | – | – | – | – | – | – |" in lines
    assert "`encoder_file`: needs a folder." in lines
    assert [line for line in lines if line.startswith("**")] == [f"**{group.title}**" for group in OURS.groups]
    widths = {line.count("|") for line in lines if line.startswith("|")}
    assert widths == {len(OURS.columns) + 3}


def test_cells() -> None:
    assert [cell([]), cell([None]), cell([0.123]), cell([0.1, 0.3])] == ["–", "–", "0.12", "0.20 (0.10–0.30)"]


def test_what_people_write_around_the_tables_is_kept() -> None:
    begin, end = markers(OURS)
    text = place("# Ablations\n\nWhat was learned.\n", "first\n", begin, end)
    assert place(f"{text}\nAfter.\n", "second\n", begin, end) == (
        f"# Ablations\n\nWhat was learned.\n\n{begin}\nsecond\n{end}\n\nAfter.\n"
    )
    both = place(text, "papers\n", *markers(PAPERS))
    assert "first\n" in both
    assert "papers\n" in both
    with pytest.raises(BackdropError, match="must hold"):
        place(f"{end} {begin}", "x", begin, end)


def test_results_come_from_experiments_or_from_earlier_ones_with_the_same_parameters(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scores = {"method": {"mAP50": 0.1, "centre_hit": 0.2, "J_mean": 0.3, "F_mean": 0.4, "threshold": 0.5}}
    scores["method_raw"] = {"J_mean": 0.25}
    answers = {"rev-parse": "abc\n", "for-each-ref": "refs/exps/ab/c/flow\n", "show": json.dumps(scores)}
    monkeypatch.setattr(ablations, "git", lambda *arguments: answers[arguments[0]])
    wanted = [
        Task("flow_off", 0, "1", "flow", ()),
        Task("none", 0, "0", "gone", ()),
        Task("crf_off", 0, "2", "never", ()),
    ]
    found = collect(OURS, wanted, [entry("none", 0, J=0.7), entry("crf_off", 0)])
    assert [result["row"] for result in found] == ["flow_off", "none"], "crf_off had other parameters"
    assert found[0]["figures"] == dict(zip(OURS.columns, (0.1, 0.2, 0.25, 0.3, 0.4, 0.5), strict=True))
    assert found[1]["figures"]["J"] == 0.7


def test_results_of_other_parameters_are_not_lost_without_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    (task,) = tasks(OURS, [("flow_off", 0)])
    today, earlier = entry("flow_off", 0) | {"params": task.digest}, entry("crf_off", 0)
    keep_known(OURS, [today], [])
    keep_known(OURS, [today, earlier], [("crf_off", 0)])
    with pytest.raises(BackdropError, match="1 results are of other parameters.*--anew"):
        keep_known(OURS, [today, earlier], [("flow_off", 0)])


def test_the_digest_leaves_out_what_cannot_change_a_result() -> None:
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    other = values | {"compute": {}, "encoder": {"perceptual": "none", "weights": "none"}}
    assert digest(values) == digest(other)
    here, there = ({**values, "encoder": {"perceptual": folder, "weights": folder}} for folder in ("/a", "/b"))
    assert digest(here) == digest(there) != digest(values)
    assert digest(values | {"seed": 1}) != digest(values)
    assert digest(values | {"encoder": {**values["encoder"], "backbone": "efficientnet_lite0"}}) != digest(values)
    before = {key: value for key, value in values["background"].items() if key != "masks"}  # a key that came later
    assert digest(values | {"background": before}) == digest(values)
    assert digest(values | {"background": before | {"masks": "masks"}}) != digest(values)


def test_the_library_imports_no_benchmark() -> None:
    for path in [*(ROOT / "backdrop").glob("*.py"), *(ROOT / "stages").glob("*.py")]:
        assert "benchmarks" not in path.read_text()
