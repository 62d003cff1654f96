"""The benchmark that runs sequences one by one: its commands and its table (the stages themselves: test_pipeline)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from backdrop.errors import BackdropError
from benchmarks import sequences
from benchmarks.sequences import RESULTS, commands, run_one, table
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


def test_a_stage_that_fails_is_named_with_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sequences, "commands", lambda: [("flow", "echo no flow here; exit 3")])
    with pytest.raises(BackdropError, match=r"stage flow failed; see .*flow\.log"):
        run_one("davis2016", "/nowhere", "camel", tmp_path / "camel", scale="sequence", overrides=[])
    assert (tmp_path / "camel" / "flow.log").read_text() == "no flow here\n"
