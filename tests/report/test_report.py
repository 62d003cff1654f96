"""The report: one file, right numbers, nothing from outside."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner

from backdrop.app import cli
from backdrop.app.project.summary import summary
from backdrop.errors import BackdropError
from backdrop.io.frame_archive import FrameArchive
from backdrop.report import report
from backdrop.report.report import write_report
from backdrop.report.scores import margin, verdict
from tests.handmade_run import write_frames
from tests.scored_project import FRAMES, SCRIPT, score, scored_project


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return scored_project(tmp_path)


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
    assert re.search(r"worst: frame \S+, J 0\.00", page.text)
    assert len(re.findall(r"best: frame \S+, J 1\.00", page.text)) == 2 * 2
    assert "Backdrop was given videos" in page.text, "for somebody who was not there"
    assert "L_fg is the nearer to 0" in page.text, "the curve is explained"


def test_a_chart_can_be_read_on_a_phone(project: Path, tmp_path: Path) -> None:
    """A page 390 pixels wide has 358 for a chart, which shrinks its letters with it."""
    text = write_report(project, tmp_path / "report.html").read_text()
    charts = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    assert len(charts) == 2
    for chart in charts:
        width = float(re.findall(r'width="([\d.]+)pt"', chart)[0]) * 4 / 3
        letters = [float(size) * 4 / 3 for size in re.findall(r"font-size: ([\d.]+)px", chart)]
        assert letters
        assert min(letters) * min(1, 358 / width) >= 8.5


@pytest.mark.parametrize("color", [(230, 40, 40), (255, 150, 20), (60, 140, 250), (20, 20, 20), (240, 240, 240)])
def test_the_tint_is_unlike_the_subject_and_the_outline_of_the_truth(color: tuple[int, int, int]) -> None:
    image, mask = np.zeros((20, 30, 3), np.uint8), np.zeros((20, 30), bool)
    image[:], mask[5:15, 5:15] = (90, 90, 90), True
    image[mask] = color
    tint = report._tint(image, mask)
    assert np.linalg.norm(np.subtract(tint, color)) > 150
    assert tint in report.TINTS
    assert report.TRUTH not in report.TINTS
    assert report._tint(image, np.zeros_like(mask)) == report.TINT


def test_a_model_from_outside_is_marked(project: Path, tmp_path: Path) -> None:
    page = write_report(project, tmp_path / "plain.html").read_text()
    assert "model from outside" not in page
    (project / "params.yaml").write_text("student:\n  prior: u2netp\n")
    page = write_report(project, tmp_path / "marked.html").read_text()
    assert "A model from outside took part (student.prior: u2netp)" in page
    (project / "params.yaml").write_text("encoder:\n  weights: imagenet\n  perceptual: none\n")
    page = write_report(project, tmp_path / "marked.html").read_text()
    assert "A model from outside took part (encoder.weights: imagenet)" in page


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


def test_footage_without_truth_is_reported_by_its_pictures(project: Path) -> None:
    for name in ("good", "bad"):
        images = [FrameArchive(project / "data" / "frames" / f"{name}.zip").image(t) for t in range(FRAMES)]
        write_frames(project / "data" / "frames", name, images, {})
    score(project)
    assert json.loads((project / "metrics" / "scores.json").read_text())["frames_scored"] == 0
    page = Page(write_report(project, project / "r.html", project / "pictures").read_text())
    assert "2 sequences without ground truth" in page.text
    assert "nothing is scored" in page.text
    assert re.search(r"good\s+·\s+a mask in 8 of 8 frames, 5\.6% of the image", page.text)
    assert re.search(r"bad\s+·\s+a mask in 6 of 8 frames", page.text)
    assert page.tags.count("img") == 2 * 4
    assert page.tags.count("table") == 0
    assert page.tags.count("svg") == 1, "the training curve alone"
    assert sorted(path.name for path in (project / "pictures").iterdir()) == ["frames.png"]


def test_the_sheet_shows_a_few_sequences_and_the_page_all(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "SHEET", 1)
    page = Page(write_report(project, project / "r.html", project / "pictures").read_text())
    assert page.tags.count("img") == 2 * 4
    with Image.open(project / "pictures" / "frames.png") as sheet:
        one = sheet.size[1]
    monkeypatch.setattr(report, "SHEET", 2)
    write_report(project, project / "r.html", project / "pictures")
    with Image.open(project / "pictures" / "frames.png") as sheet:
        assert sheet.size[1] == 2 * one


def test_dvc_gets_pictures(project: Path) -> None:
    write_report(project, project / "r.html", project / "pictures")
    root = ElementTree.parse(project / "pictures" / "J.svg").getroot()
    assert root.tag.endswith("svg")
    assert "Backdrop, what ships" in "".join(root.itertext())
    with Image.open(project / "pictures" / "frames.png") as sheet:
        assert sheet.size[0] > 4 * 300
        assert np.asarray(sheet).std() > 20


@pytest.mark.parametrize("name", ["d_and_s", "p2020", "p2022", "method_paper"])
def test_scores_of_a_preset_and_of_an_older_run_are_read(name: str, project: Path) -> None:
    path = project / "metrics" / "scores.json"
    scores = json.loads(path.read_text())
    path.write_text(json.dumps({key.replace("d_and_s", name): value for key, value in scores.items()}))
    page = Page(write_report(project, project / "report.html").read_text())
    assert "detector and synthesis alone" in page.text
    assert "D and S alone" in summary(project)


@pytest.mark.parametrize("damage", ["missing", "no count", "no json"])
def test_what_cannot_be_reported_is_named(damage: str, project: Path) -> None:
    path = project / "metrics" / "scores.json"
    if damage == "missing":
        path.unlink()
    else:
        path.write_text("{}" if damage == "no count" else "{")
    with pytest.raises(BackdropError, match=r"scores\.json"):
        write_report(project, project / "report.html")
    assert not (project / "report.html").exists()


def test_from_the_command_line(project: Path) -> None:
    result = CliRunner().invoke(cli.app, ["report", str(project), "-o", str(project / "r.html")])
    assert result.exit_code == 0
    assert (project / "r.html").stat().st_size > 10_000
