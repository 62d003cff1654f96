"""`benchmarks.budget`: the footage, the stand-in for truth, and one stage measured."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from backdrop.measures import jaccard
from backdrop.video.decode import decode_video
from backdrop.video.encode import encode_video
from benchmarks import budget

FRAMES = 20


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """A dark square that walks over a light ground; something dark stands at the border."""
    images = np.full((FRAMES, 48, 64, 3), 200, np.uint8)
    for t, image in enumerate(images):
        image[16:30, 8 + 2 * t : 22 + 2 * t] = 30
        image[:, :4] = 20
    encode_video(tmp_path / "clip.mp4", images, fps=30)
    return tmp_path / "clip.mp4"


def test_a_file_shows_the_video_and_its_mirror_image_and_the_animal_is_the_truth(clip: Path, tmp_path: Path) -> None:
    footage = budget.prepare(clip, tmp_path / "work", 2, every=5, level=90)
    assert sorted(path.name for path in footage.iterdir()) == ["masks", "v00.mp4", "v01.mp4"]
    images = [image for *_, image in decode_video(footage / "v01.mp4")]
    assert len(images) == 2 * FRAMES
    assert images[0].shape == (720, 1280, 3)
    mirrored = images[FRAMES + 3][:, ::-1].astype(int)
    assert np.abs(mirrored - images[3]).mean() < 3
    masks = sorted((footage / "masks" / "v00").iterdir())
    assert [path.name for path in masks] == [f"{t:06d}.png" for t in range(0, FRAMES, 5)]
    for t, path in zip(range(0, FRAMES, 5), masks, strict=True):
        square = np.zeros((48, 64), np.uint8)
        square[16:30, 8 + 2 * t : 22 + 2 * t] = 1
        truth = cv2.resize(square, budget.HD, interpolation=cv2.INTER_NEAREST) > 0
        assert jaccard(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) > 0, truth) > 0.9


def test_joined_files_are_one_long_video(clip: Path, tmp_path: Path) -> None:
    footage = budget.prepare(clip, tmp_path / "work", 3, every=5, level=90, joined=True)
    assert sorted(path.name for path in footage.iterdir()) == ["masks", "v00.mp4"]
    found = list(decode_video(footage / "v00.mp4"))
    assert [number for number, *_ in found] == list(range(6 * FRAMES))
    assert np.allclose([time for _, time, _ in found], np.arange(6 * FRAMES) / 30, atol=1e-3)
    images = [image.astype(int) for *_, image in found]
    for t in (0, 7, 2 * FRAMES - 1):
        assert np.abs(images[t + 4 * FRAMES] - images[t]).mean() < 1
    assert len(list((footage / "masks" / "v00").iterdir())) == FRAMES // 5


def test_a_stage_is_measured_once(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "budget.json"
    words = ["budget", str(clip), "--budgets", "100", "--only", "frames", "--dark", "90", "--truth", "5"]
    monkeypatch.setattr(sys, "argv", [*words, "--work", str(tmp_path / "work"), "--out", str(out)])
    budget.main()
    run = json.loads(out.read_text())["1_100"]
    assert run["frames"] == 2 * FRAMES
    assert 16 <= run["trained_on"] <= run["frames"]
    assert run["stages"]["frames"]["seconds"] > 0
    shown = capsys.readouterr().out
    assert f"| 100 | {run['trained_on']} | 40 |" in shown
    assert "| frames |" in shown
    monkeypatch.setattr(budget, "measure", lambda *_: pytest.fail("it was measured before"))
    budget.main()
