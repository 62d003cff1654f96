"""`backdrop review`: which frames it names, what it writes, and that what tools make of it is read."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from pycocotools import mask as coco_mask
from typer.testing import CliRunner

from backdrop.app.cli import app
from backdrop.app.exports.labelstudio import brush_rle
from backdrop.app.review.choice import Candidate, candidates, choose, labeled_frames
from backdrop.io.frame_archive import FrameArchive
from backdrop.student.labels.checked import read_labels
from tests.handmade_run import HEIGHT, WIDTH, make_run, write_predictions
from tests.small_pipeline import small_values


@pytest.fixture
def trained(tmp_path: Path) -> tuple[Path, dict]:
    """A project whose model is unsure of frame 5 of the first video."""
    truth = make_run(tmp_path / "data", {"one": "train", "two": "all", "three": "test"}, frames=8)
    soft = {t: mask * (0.55 if t == 5 else 0.99) for t, mask in enumerate(truth["one"])}
    write_predictions(tmp_path / "data" / "predictions", "one", soft, [np.array([0.0, 0, 1, 1])] * 8)
    (tmp_path / "videos").mkdir()
    values = small_values({"data.layout": "videos", "data.protocol": "self", "data.root": "videos"})
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
    return tmp_path, truth


def candidate(sequence: str, t: int, sure: float, look: float) -> Candidate:
    return Candidate(sequence, t, sequence, t, sure, np.full(3, look, np.float32), t / 100)


def test_the_least_sure_frame_comes_first_and_its_neighbors_do_not_follow() -> None:
    found = [candidate("a", t, 0.9 if t != 50 else 0.2, 0.5) for t in range(0, 101, 2)]
    found = [one if abs(one.t - 50) > 4 else one._replace(sure=0.2) for one in found]
    first, second = choose(found, 2)
    assert 46 <= first.t <= 54
    assert abs(second.t - first.t) >= 20


def test_a_lone_frame_that_is_least_sure_does_not_come_before_many_that_are_unsure() -> None:
    found = [candidate("a", t, 0.6, 0.3) for t in range(0, 60, 2)] + [candidate("a", 100, 0.3, 0.9)]
    first, second = choose(found, 2)
    assert 20 <= first.t <= 40
    assert second.t != first.t


def test_each_video_gets_one_before_any_gets_two() -> None:
    found = [candidate(name, t, sure, 0.5) for name, sure in (("a", 0.1), ("b", 0.9), ("c", 0.8)) for t in range(9)]
    assert {one.sequence for one in choose(found, 3)} == {"a", "b", "c"}
    assert [one.sequence for one in choose(found, 3)][0] == "a", "the least sure of all comes first"
    assert {one.sequence for one in choose(found, 2, {("a", 3)})} == {"b", "c"}, "that one has a label already"


def test_of_frames_as_sure_the_one_unlike_the_others_is_chosen() -> None:
    found = [candidate("a", t, 0.6, 0.9 if t == 4 else 0.1) for t in range(8)]
    assert choose(found, 1, {("a", 0)})[0].t in (4, 7)
    assert 4 in [one.t for one in choose(found, 2, {("a", 0)})]


def test_labeled_frames_are_not_named_again(trained: tuple[Path, dict]) -> None:
    project, _ = trained
    assert {one.sequence for one in candidates(project)} == {"one", "two"}, "no test video"
    (project / "videos" / "labels").mkdir()
    (project / "videos" / "labels" / "a.csv").write_text("video,frame,label\none,5,nothing\n")
    labeled = labeled_frames(project)
    assert labeled == {("one", 5)}
    assert ("one", 5) not in {(one.sequence, one.t) for one in choose(candidates(project), 100, labeled)}


def test_what_review_writes_goes_through_the_tools_and_back(
    trained: tuple[Path, dict], monkeypatch: pytest.MonkeyPatch
) -> None:
    project, truth = trained
    monkeypatch.chdir(project)
    done = CliRunner().invoke(app, ["review", "-n", "4"])
    assert done.exit_code == 0, done.output
    assert re.search(r"^one, frame 5: sure 0\.5", done.output, re.MULTILINE)
    folder = project / "review"
    pictures = sorted(path.name for path in (folder / "images").iterdir())
    assert len(pictures) == 4
    page = (folder / "index.html").read_text()
    assert all(f"shown/{name}" in page and f"images/{name}" in page for name in pictures)
    assert {one["name"] for one in json.loads((folder / "cvat-labels.json").read_text())} >= {"subject", "nothing"}
    tasks = json.loads((folder / "labelstudio.json").read_text())
    for task in tasks:  # somebody draws the truth
        name, frame = task["data"]["image"].removesuffix(".jpg").split("--")
        value = {"format": "rle", "rle": brush_rle(truth[name][int(frame)])}
        size = {"original_width": WIDTH, "original_height": HEIGHT}
        task["annotations"] = [{"result": [{"type": "brushlabels", "value": value} | size]}]
    (project / "labels").mkdir()
    (project / "labels" / "project-1.json").write_text(json.dumps(tasks))
    coco = json.loads((folder / "coco.json").read_text())
    assert {image["file_name"] for image in coco["images"]} == set(pictures)
    assert coco_mask.area([one["segmentation"] for one in coco["annotations"]]).min() > 0
    archives = [FrameArchive(project / "data" / "frames" / f"{name}.zip") for name in ("one", "two")]
    found, lines = read_labels(project / "labels", project / "data" / "frames", archives, (WIDTH, HEIGHT))
    assert lines == []
    assert sum(len(labels) for labels in found.values()) == 4
    for name, labels in found.items():
        for t, label in labels.items():
            assert label.mask is not None
            assert np.array_equal(label.mask > 0, truth[name][t])


def test_nothing_of_somebody_is_overwritten_and_an_untrained_project_is_one_line(
    trained: tuple[Path, dict], monkeypatch: pytest.MonkeyPatch
) -> None:
    project, _ = trained
    monkeypatch.chdir(project)
    (project / "review").mkdir()
    (project / "review" / "mine.json").touch()
    done = CliRunner().invoke(app, ["review"])
    assert "not empty" in str(done.exception)
    for archive in (project / "data" / "masks").glob("*.zip"):
        archive.unlink()
    done = CliRunner().invoke(app, ["review", "-o", "new"])
    assert "run `backdrop train` first" in str(done.exception)
    (project / "data" / "frames" / "index.csv").unlink()
    done = CliRunner().invoke(app, ["review", "-o", "new"])
    assert "nothing was trained here yet (there is no data/frames/index.csv): run `backdrop train`" in str(
        done.exception
    )
    assert not (project / "new").exists()
