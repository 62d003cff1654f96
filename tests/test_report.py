"""The report: one file, right numbers, nothing from outside."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from backdrop import cli
from backdrop.errors import BackdropError
from backdrop.evaluation import Folders, score_all
from backdrop.report import margin, verdict, write_report
from tests.runs import make_run, write_masks

SCRIPT = "<script>alert(1)</script>"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A scored project of two sequences; the masks of "bad" are empty in its first two frames."""
    data = tmp_path / "data"
    truth = make_run(data, {"good": "test", "bad": "test"})
    write_masks(data / "masks", "bad", {t: np.zeros_like(m) if t < 2 else m for t, m in enumerate(truth["bad"])})
    scores = score_all(Folders(**{name: data / name for name in Folders.__dataclass_fields__}), "videos", 1)
    metrics = tmp_path / "metrics"
    losses = metrics / "train" / "plots" / "metrics" / "loss"
    losses.mkdir(parents=True)
    (losses / "fg.tsv").write_text("step\tfg\n0\t1.0\n10\t0.5\n")
    scores.per_sequence.to_csv(metrics / "per_sequence.csv", index=False)
    scores.per_frame.to_csv(metrics / "per_frame.csv", index=False)
    (metrics / "scores.json").write_text(json.dumps(scores.summary))
    (metrics / "provenance.json").write_text(json.dumps({"git_revision": SCRIPT, "seed": 0, "device": "cpu"}))
    (tmp_path / "params.yaml").write_text(f"seed: 0  # {SCRIPT}\n")
    return tmp_path


class Page(HTMLParser):
    """What a browser would fetch, and all text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.tags: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        # xlink:href within SVG refers to the page itself
        self.fetched += [value or "" for name, value in attrs if name in ("src", "href") and tag != "use"]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_report_holds_everything_it_shows(project: Path, tmp_path: Path) -> None:
    page = Page(write_report(project, tmp_path / "out" / "report.html").read_text())
    assert page.fetched, "no picture"
    assert all(source.startswith("data:image/") for source in page.fetched)
    assert page.tags.count("img") == 2 * 4
    assert page.tags.count("svg") == 2, "bars, and one curve"
    assert "script" not in page.tags, "text of a file became part of the page"
    assert SCRIPT in page.text
    assert "0.88" in page.text, "J: one sequence 1, the other 6 / 8"
    assert re.search(r"good\s+·\s+J\s+1\.00", page.text)
    assert re.search(r"bad\s+·\s+J\s+0\.75", page.text)
    assert re.search(r"frame \S+, J 0\.00", page.text), "the worst frame"


def test_without_pictures_the_numbers_remain(project: Path) -> None:
    (project / "data" / "masks" / "good.zip").unlink()
    page = Page(write_report(project, project / "report.html").read_text())
    assert page.tags.count("img") == 4
    assert re.search(r"good\s+·\s+J\s+1\.00", page.text)


def test_the_verdict_counts_sequences_on_which_both_baselines_are_beaten() -> None:
    values = {"a": (0.8, 0.7, 0.6), "b": (0.8, 0.9, 0.1), "c": (0.5, 0.4, 0.49)}
    rows = [
        {"sequence": name, "result": result, "J_mean": value}
        for name, three in values.items()
        for result, value in zip(("method", "flow_threshold", "mog2"), three, strict=True)
    ]
    table = pd.DataFrame(rows)
    assert [round(margin(table, name) or 0, 2) for name in values] == [0.1, -0.1, 0.01]
    assert "2 of 3" in verdict({"method": {"J_mean": 0.7}}, table)


@pytest.mark.parametrize("damage", ["missing", "nothing scored", "no json"])
def test_what_cannot_be_reported_is_named(damage: str, project: Path) -> None:
    path = project / "metrics" / "scores.json"
    if damage == "missing":
        path.unlink()
    else:
        path.write_text(json.dumps({"frames_scored": 0}) if damage == "nothing scored" else "{")
    with pytest.raises(BackdropError, match=r"scores\.json"):
        write_report(project, project / "report.html")
    assert not (project / "report.html").exists()


def test_from_the_command_line(project: Path) -> None:
    result = CliRunner().invoke(cli.app, ["report", str(project), "-o", str(project / "r.html")])
    assert result.exit_code == 0
    assert (project / "r.html").stat().st_size > 10_000
