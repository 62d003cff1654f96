"""The benchmark that runs sequences one by one: its commands and its table (the stages themselves: test_pipeline)."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from backdrop.errors import BackdropError
from backdrop.io.archives import ArchiveWriter
from backdrop.io.images import encode_png
from backdrop.io.masks import BOXES, entry
from backdrop.params import compose_params
from benchmarks import sequences
from benchmarks.sequences import (
    ABLATION,
    BEFORE_STUDENT,
    RESULTS,
    SHIPPED,
    ablation_table,
    commands,
    rows_of,
    run_one,
    table,
)
from tests.small_pipeline import ROOT, stage_names


def test_commands_are_those_of_dvc_yaml_with_nothing_left_to_fill_in() -> None:
    found = commands()
    names = list(dict.fromkeys(name.split("@")[0] for name, _ in found))
    assert names == [name for name in stage_names() if name != "render"]
    assert [name for name, _ in found if "@" in name] == ["inpaint@rgb", "inpaint@flow"]
    for name, command in found:
        assert "${" not in command, name
        assert str(ROOT / "stages") in command


def result(name: str, method: float, flow: float, mog2: float) -> dict[str, Any]:
    values = dict.fromkeys(RESULTS, 0.5) | {"method": method, "flow_threshold": flow, "mog2": mog2}
    scores = {key: {"J_mean": value, "F_mean": value / 2} for key, value in values.items()}
    baselines = {key: scores.pop(key) for key in ("flow_threshold", "mog2")}
    return {"sequence": name, "cpu_minutes": 4.0, "scores": scores | {"baselines": baselines}}


def test_the_table_says_where_both_baselines_are_beaten() -> None:
    lines = table([result("camel", 0.8, 0.7, 0.2), result("dog", 0.7, 0.76, 0.3)]).splitlines()
    assert lines[2].startswith("| camel | 0.80 / 0.40 |")
    assert lines[2].endswith("| yes | 4.0 |")
    assert lines[3].endswith("| no | 4.0 |")
    assert lines[4].startswith("| **mean** | 0.750 / 0.375 |")
    assert lines[4].endswith("| 1 of 2 | 4.0 |")


def test_without_baselines_as_on_a_budget_none_is_beaten() -> None:
    results = [result(name, 0.8, 0.7, 0.2) for name in ("camel", "dog")]
    for one, left in zip(results, ("mog2", "flow_threshold"), strict=True):
        one["scores"]["baselines"].pop(left)
        one["scores"]["baselines"][{"mog2": "flow_threshold", "flow_threshold": "mog2"}[left]]["J_mean"] = 0.1
    assert table(results).splitlines()[4].endswith("| 0 of 2 | 4.0 |"), "what was not scored is not beaten"
    for one in results:
        one["scores"]["baselines"] = {}
    lines = table(results).splitlines()
    assert lines[2].startswith("| camel | 0.80 / 0.40 |")
    assert "| nan / nan | nan / nan |" in lines[2]
    assert lines[2].endswith("| no | 4.0 |")
    assert lines[4].startswith("| **mean** | 0.800 / 0.400 |")
    assert lines[5].count("nan to nan") == 2


def test_results_recorded_under_the_older_name_of_d_and_s_are_read() -> None:
    now, before = result("camel", 0.8, 0.7, 0.2), result("camel", 0.8, 0.7, 0.2)
    before["scores"] = {key.replace("d_and_s", "method_paper"): value for key, value in before["scores"].items()}
    assert "method_paper" in before["scores"]
    assert table([before]) == table([now])
    for path in sorted((ROOT / "benchmarks").glob("sequences_*.json")):
        recorded = json.loads(path.read_text(encoding="utf-8"))
        for results in recorded.values() if isinstance(recorded, dict) else [recorded]:  # rows of an ablation
            assert table(results), path.name


def test_a_stage_that_fails_is_named_with_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sequences, "commands", lambda: [("flow", "echo no flow here; exit 3")])
    with pytest.raises(BackdropError, match=r"stage flow failed; see .*flow\.log"):
        run_one("davis2016", "/nowhere", "camel", tmp_path / "camel", scale="sequence", overrides=[])
    assert (tmp_path / "camel" / "flow.log").read_text() == "no flow here\n"


def test_the_table_gives_precision_recall_and_instability_of_what_ships_and_the_interval_of_means() -> None:
    results = [result("camel", 0.8, 0.7, 0.2), result("dog", 0.6, 0.76, 0.3)]
    for one, value in zip(results, (0.25, 0.75), strict=True):
        one["scores"]["method"] |= {"precision": value, "recall": 1 - value, "T": value / 10}
    lines = table(results).splitlines()
    assert lines[2].endswith("| 0.25 | 0.75 | 0.03 | yes | 4.0 |")
    assert lines[4].endswith("| 0.500 | 0.500 | 0.050 | 1 of 2 | 4.0 |")
    assert lines[5].startswith("| 95 % of J | 0.60 to 0.80 |")


def test_the_table_marks_a_model_from_outside() -> None:
    assert "supervised" not in table([result("camel", 0.8, 0.7, 0.2)])
    marked = table([result("camel", 0.8, 0.7, 0.2) | {"overrides": ["student.rounds=1", "student.prior=u2netp"]}])
    assert marked.endswith("A model from outside took part (student.prior=u2netp): supervised.")


def test_the_ablation_counts_only_sequences_that_every_row_has() -> None:
    whole = [result("camel", 0.8, 0.7, 0.2), result("dog", 0.6, 0.7, 0.3)]
    lines = ablation_table({SHIPPED: whole, "one round": [result("camel", 0.7, 0.7, 0.2)]}).splitlines()
    assert lines[2] == f"| {SHIPPED} | 0.800 / 0.400 |  | 4.0 |"
    assert lines[3] == "| one round | 0.700 / 0.350 | -0.100 (-0.100 to -0.100) | 4.0 |"
    assert lines[-1] == "1 sequences."


def test_an_ablation_has_what_ships_and_the_rows_asked_for_or_all() -> None:
    assert [name for name, _ in rows_of(None)] == [SHIPPED]
    assert [name for name, _ in rows_of([])] == list(ABLATION)
    assert rows_of(["one round"]) == [(SHIPPED, []), ("one round", ["student.rounds=1"])]


def test_each_ablation_is_a_setting_that_params_accept(tmp_path: Path) -> None:
    for number, changes in enumerate(ABLATION.values()):
        compose_params(["data=davis2016", "scale=sequence", *changes], tmp_path / f"{number}.yaml", ROOT / "conf")
        assert (tmp_path / f"{number}.yaml").is_file()


def test_a_row_takes_over_what_comes_before_the_student(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = tmp_path / "camel"
    for place in BEFORE_STUDENT:
        (base / place).mkdir(parents=True)
    stages = {"frames": 1.0, "train": 2.0, "student": 30.0, "score": 4.0}
    (base / "result.json").write_text(json.dumps({"stages": stages}))
    score = "mkdir metrics data/masks && echo '{\"method\": {}}' > metrics/scores.json"
    run = [("frames", "exit 3"), ("train", "exit 3"), ("student", "test -d models/joint"), ("score", score)]
    monkeypatch.setattr(sequences, "commands", lambda: run)
    monkeypatch.setattr(sequences, "MaskArchive", lambda path: [])
    folder = tmp_path / "camel one round"
    changes = ["student.rounds=1"]
    found = run_one("davis2016", "/nowhere", "camel", folder, scale="sequence", overrides=changes, base=base)
    assert set(found["stages"]) == {"frames", "train", "student", "score"}
    assert found["stages"]["train"] == 2.0
    assert found["overrides"] == changes


def test_a_result_of_other_settings_is_not_taken_for_done(tmp_path: Path) -> None:
    done = tmp_path / "result.json"
    assert not sequences._same_run(done, [])
    done.write_text(json.dumps({"overrides": ["student.rounds=1"]}))
    assert sequences._same_run(done, ["student.rounds=1"])
    assert not sequences._same_run(done, [])
    assert not sequences._same_run(done, ["student.rounds=1"], "first_round")


def write_soft(path: Path, frames: list[np.ndarray]) -> None:
    """An archive of masks, (H, W) uint8 each; `Predictions` can read it, too."""
    boxes = io.BytesIO()
    np.savez(
        boxes, box=np.zeros((len(frames), 4)), p=np.full((len(frames), 2, 2), 0.25), cell=np.zeros(len(frames), int)
    )
    path.parent.mkdir(parents=True)
    with ArchiveWriter(path) as archive:
        for t, gray in enumerate(frames):
            archive.add(entry(t), encode_png(gray))
        archive.add(BOXES, boxes.getvalue())


def test_the_threshold_agrees_best_with_other_masks_where_they_are_not_empty(tmp_path: Path) -> None:
    subject = np.zeros((20, 30), np.uint8)
    subject[5:15, 5:20] = 255
    soft = np.where(subject > 0, 60, 20).astype(np.uint8)  # .24 on the subject, .08 beside it
    write_soft(tmp_path / "soft" / "camel.zip", [soft, soft, np.full_like(soft, 255)])
    write_soft(tmp_path / "masks" / "camel.zip", [subject, subject, np.zeros_like(soft)])
    found = sequences.agreeing_threshold(tmp_path / "soft" / "camel.zip", tmp_path / "masks" / "camel.zip")
    assert 0.08 < found < 0.24
    write_soft(tmp_path / "empty" / "camel.zip", [np.zeros_like(soft)] * 3)
    assert sequences.agreeing_threshold(tmp_path / "soft" / "camel.zip", tmp_path / "empty" / "camel.zip") == 0.5


def test_masks_and_threshold_are_those_of_the_run_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "d_and_s" / "camel"
    run: dict[str, Any] = {"scale": "d_and_s", "overrides": [], "first": "first_round"}
    with pytest.raises(BackdropError, match="run the same command with --scale first_round first"):
        run_one("davis2016", "/nowhere", "camel", folder, **run)
    masks = tmp_path / "first_round" / "camel" / "data" / "masks"
    masks.mkdir(parents=True)
    score = "mkdir -p metrics data/masks && echo '{\"method\": {}}' > metrics/scores.json"
    stages = [("train", "true"), ("segment", "echo again >> segmented"), ("refine", "true"), ("score", score)]
    monkeypatch.setattr(sequences, "commands", lambda: stages)
    monkeypatch.setattr(sequences, "MaskArchive", lambda path: [])
    monkeypatch.setattr(sequences, "agreeing_threshold", lambda predictions, masks: 0.15)
    found = run_one("davis2016", "/nowhere", "camel", folder, **run)
    assert found["masks"] == "first_round"
    assert set(found["stages"]) == {"train", "segment", "refine", "score"}
    assert (folder / "segmented").read_text() == "again\nagain\n"
    values = yaml.safe_load((folder / "params.yaml").read_text())
    assert (values["background"]["masks"], values["segment"]["threshold"]) == (str(masks), 0.15)
    assert sequences._same_run(folder / "result.json", [], "first_round")


VALIDATION = (
    "blackswan|bmx-trees|breakdance|camel|car-roundabout|car-shadow|cows|dance-twirl|dog|drift-chicane|drift-straight|"
    "goat|horsejump-high|kite-surf|libby|motocross-jump|paragliding-launch|parkour|scooter-black|soapbox"
)
"""DAVIS 2016's validation split: no setting may be chosen on it."""


def test_no_setting_names_a_sequence_of_the_validation_split() -> None:
    files = [*(ROOT / "conf").rglob("*.yaml"), *(ROOT / "recipes").rglob("*.yaml"), ROOT / "params.yaml"]
    assert len(files) > 10
    names = re.compile(rf"(?<![\w-])({VALIDATION})(?![\w-])")
    assert [(file.name, found[0]) for file in files if (found := names.search(file.read_text()))] == []
