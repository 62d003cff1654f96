"""The runner: cells, their marks, the table."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from backdrop.errors import BackdropError
from backdrop.io.masks import MaskArchive
from backdrop.rivals import cells, ours, summary
from backdrop.rivals.cells import RivalParams, checked, rival_params, run_cell
from backdrop.rivals.footage import FOOTAGE, Manifest, read_manifest, write_manifest
from backdrop.rivals.registry import RIVALS, load_rival
from backdrop.rivals.scores import score_sequence, sequence_otsu
from backdrop.rivals.spent import note_peak, peak_mb
from tests.handmade_run import scene, write_frames, write_index, write_masks
from tests.rivals.scenes import SIZE, PlainGround, material
from tests.small_pipeline import ROOT, small_params

FRAMES = 6


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with two embedded test videos, of which one has damaged frames; and no other footage."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BACKDROP_REAL_DATA", raising=False)
    images, masks = scene(FRAMES)
    truth = {t: mask.astype(np.uint8) * 255 for t, mask in enumerate(masks)}
    for name in ("good", "bad", "trained_on"):
        write_frames(Path("data/frames"), name, images, truth)
    splits = {"good": "test", "bad": "test", "trained_on": "train"}
    rows = [{"sequence": name, "split": split, "frames": FRAMES} for name, split in splits.items()]
    write_index(Path("data/frames"), rows)
    known = small_params()
    values = known.model_dump(mode="json", by_alias=True)
    values["student"]["size"] = [128, 80]
    Path("params.yaml").write_text(json.dumps(values))
    Path("rivals").mkdir()
    Path("rivals/params.yaml").write_text("cpu_minutes: 1\ninstance_model: null\n")
    for name in FOOTAGE:
        write_manifest(name, cells.WORK / "footage" / f"{name}.json")
    return tmp_path


def test_a_manifest_holds_the_test_videos_or_says_why_there_are_none(project: Path) -> None:
    embedded = read_manifest(Path("runs/rivals/footage/embedded.json"))
    assert list(embedded.sequences) == ["good", "bad"]
    davis = read_manifest(Path("runs/rivals/footage/davis.json"))
    assert not davis.sequences
    assert davis.reason.startswith("BACKDROP_REAL_DATA is unset: set it to the folder that holds data/DAVIS2016-train")


def test_footage_outside_is_extracted_from_the_folder_that_the_variable_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BACKDROP_REAL_DATA", str(tmp_path))
    images, masks = scene(3)
    for folder, ending, pictures in (("JPEGImages", "jpg", images), ("Annotations", "png", masks)):
        place = tmp_path / "data/DAVIS2016-train" / folder / "480p/swing"
        place.mkdir(parents=True)
        for t, picture in enumerate(pictures):
            cv2.imwrite(str(place / f"{t:05d}.{ending}"), picture.astype(np.uint8) * (255 if ending == "png" else 1))
    manifest = write_manifest("davis", tmp_path / "davis.json")
    assert manifest.reason == ""
    assert list(manifest.sequences) == ["swing"]


def test_a_cell_is_measured_and_not_run_again(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [result] = run_cell("grabcut", "embedded", ["good"])
    assert result["J"] > 0.5
    assert result["J_oracle"] >= result["J"] - 1e-9
    assert result["frames"] == FRAMES
    assert 0 < result["cpu_minutes"] < 1
    own = Path("runs/rivals/cells/grabcut/embedded/checkpoints/good")
    assert 50 < peak_mb(own) == result["memory_mb"] < 5000
    monkeypatch.setattr(cells, "_run_sequence", lambda *_: pytest.fail("run again"))
    assert run_cell("grabcut", "embedded", ["good"]) == [result]
    Path("rivals/params.yaml").write_text("cpu_minutes: 1\ninstance_model: other.onnx\nperson_model: other.tflite\n")
    assert run_cell("grabcut", "embedded", ["good"]) == [result], "it has no model"
    Path("rivals/params.yaml").write_text("cpu_minutes: 2\ninstance_model: null\n")
    with pytest.raises(pytest.fail.Exception, match="run again"):
        run_cell("grabcut", "embedded", ["good"])
    params, keys = cells.read(cells.PARAMS), []
    for model in ("null", "other.tflite"):
        Path("rivals/params.yaml").write_text(f"cpu_minutes: 2\nperson_model: {model}\n")
        keys.append([cells.cell_key(name, "", params) for name in ("person_segmenter", "instance_model")])
    assert keys[0][0] != keys[1][0], "another model"
    assert keys[0][1] == keys[1][1], "not its own"


def test_a_failed_cell_is_marked_and_the_table_goes_on(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = bytearray(Path("data/frames/bad.zip").read_bytes())
    data[300] ^= 1
    Path("data/frames/bad.zip").write_bytes(data)
    good, bad = run_cell("grabcut", "embedded")
    assert "bad.zip" in bad["failed"]
    assert "\n" not in bad["failed"]
    [no_model] = run_cell("instance_model", "embedded", ["good"])
    assert no_model["failed"].startswith("no instance model: name a checkpoint or ONNX file")
    Path("docs").mkdir()
    page = Path("docs/rivals.md")
    page.write_text(f"before\n{summary.BEGIN}\nof last year\n{summary.END}\nafter\n")
    summary.write_summary()
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "of last year" not in text
    assert f"| GrabCut from boxes | no | {good['J']:.3f} / {good['F']:.3f} |" in text
    assert "1, 1 failed |" in text
    assert "| Instance model (supervised) | as its makers say | failed |" in text
    assert "- Instance model, good: no instance model" in text
    assert "**davis**: no frames were at hand." in text
    metrics = json.loads(Path("metrics/rivals.json").read_text())
    assert metrics["embedded"]["GrabCut from boxes"]["J"] == pytest.approx(good["J"])
    assert metrics["embedded"]["Instance model"]["failed"] == 1
    sheet = cv2.imread("docs/images/rivals.jpg")
    assert sheet is not None
    summary.write_summary()
    assert page.read_text() == text


def test_ours_stands_beside_the_rivals_on_the_sequences_that_they_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = ours.RECORDS["davis"]
    path.parent.mkdir()
    record = [
        {"sequence": name, "overrides": [], "cpu_minutes": spent, "scores": {"method": {"J_mean": j, "F_mean": 0.5}}}
        for name, j, spent in (("boat", 0.4, 10), ("swing", 0.8, None))
    ]
    path.write_text(json.dumps(record))
    rows = [{"sequence": "boat", "cpu_minutes": 0.1, "memory_mb": 9.0} | dict.fromkeys(summary.MEASURED, 0.45)]
    manifest = Manifest("frames", {"boat": "1", "swing": "2"}, "")
    text = summary.tables({"davis": {"nlc": rows}}, {"davis": manifest})
    assert "| **ours** | no | 0.600 / 0.500 |  | 10.0 |  | 2 |" in text
    assert "| NLC | no | 0.450 / 0.450 | 0.450 / 0.450 | 0.10 | 9 | 1 (ours there: 0.400 / 0.500) |" in text
    assert "| boat | 0.40 | **0.45** |" in text
    assert "| swing |" not in text
    path.write_text("[1]")
    with pytest.raises(BackdropError, match=r"sequences_davis2016_train\.json is no record of benchmarks\.sequences"):
        ours.own_scores("davis")
    assert ours.own_scores("embedded") == {}


def test_a_page_without_markers_is_named(project: Path) -> None:
    Path("docs").mkdir()
    Path("docs/rivals.md").write_text("nothing\n")
    with pytest.raises(BackdropError, match=r"docs/rivals\.md lacks the lines"):
        summary.write_summary()


def test_the_limit_of_minutes_ends_a_sequence_and_says_so(project: Path) -> None:
    Path("rivals/params.yaml").write_text("cpu_minutes: 0.02\ninstance_model: null\n")
    [result] = run_cell("dilate_unet", "embedded", ["good"])
    assert result["failed"] == "took more than 0.02 CPU minutes"


def test_the_peak_of_memory_is_the_process_own(tmp_path: Path) -> None:
    """The kernel's `ru_maxrss` of a child begins with that of the process that started it."""
    assert peak_mb(tmp_path) is None
    script = "from pathlib import Path; from backdrop.rivals.spent import note_peak; note_peak(Path('.'))"
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True)
    note_peak(tmp_path / "here")
    small, here = peak_mb(tmp_path), peak_mb(tmp_path / "here")
    assert small is not None
    assert here is not None
    assert small < 150 < here


def test_unknown_rivals_footage_and_settings_are_named(project: Path) -> None:
    with pytest.raises(BackdropError, match="there is no rival 'sam'; rivals are video_pca, "):
        run_cell("sam", "embedded")
    with pytest.raises(BackdropError, match="there is no footage 'moon'; footage is embedded, davis, badminton"):
        write_manifest("moon", Path("runs/rivals/footage/moon.json"))
    Path("runs/rivals/footage/davis.json").write_text("[]")
    with pytest.raises(BackdropError, match="davis.json is no manifest of footage"):
        run_cell("grabcut", "davis")
    Path("rivals/params.yaml").write_text("cpu_minutes: -1\n")
    with pytest.raises(BackdropError, match=r"rivals/params\.yaml: cpu_minutes"):
        rival_params()


def test_masks_that_are_none_are_refused(tmp_path: Path) -> None:
    clip = PlainGround(2)
    given = material(clip, tmp_path)
    right = np.zeros((SIZE[1], SIZE[0]), np.float32)

    def from_list(masks: list[np.ndarray]) -> Iterator[np.ndarray]:
        return iter(masks)

    assert len(list(checked("x", from_list([right, right]), given))) == 2
    with pytest.raises(BackdropError, match="x gives 1 masks for 2 frames"):
        list(checked("x", from_list([right]), given))
    for wrong in (right[:-1], right - 1, right + np.nan):
        with pytest.raises(BackdropError, match=r"x gives no soft mask of \(96, 160\) for frame 1"):
            list(checked("x", from_list([right, wrong]), given))


def test_the_threshold_needs_no_truth_and_the_oracle_does(tmp_path: Path) -> None:
    images, masks = scene(2)
    soft = [np.where(mask, 0.3, 0.1).astype(np.float32) for mask in masks]
    assert 0.1 <= sequence_otsu(soft) < 0.3
    assert sequence_otsu([np.zeros((4, 6), np.float32)]) == 0.5
    write_masks(tmp_path, "masks", dict(enumerate(masks)))
    assert len(MaskArchive(tmp_path / "masks.zip")) == 2
    write_frames(tmp_path, "unlabeled", images, {})
    assert score_sequence(tmp_path / "unlabeled.zip", tmp_path / "masks.zip")["frames"] == 0
    write_frames(tmp_path, "labeled", images, {1: masks[1].astype(np.uint8) * 255})
    scores = score_sequence(tmp_path / "labeled.zip", tmp_path / "masks.zip")
    assert (scores["frames"], scores["J"], scores["F"], scores["J_oracle"]) == (1, 1, 1, 1)


def test_every_rival_is_found_by_its_name_and_says_what_was_simplified() -> None:
    for name, entry in RIVALS.items():
        function = load_rival(name)
        assert function.__name__ == name
        assert entry.title
        said = " ".join(str(__import__(function.__module__, fromlist=["_"]).__doc__).split())
        assert "implified" in said or entry.supervised != "no" or name in ("grabcut", "plain_inpaint"), name


def test_the_committed_settings_can_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert rival_params() == RivalParams(cpu_minutes=10, instance_model=None)
