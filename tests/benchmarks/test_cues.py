"""The benchmark of the cues: its rows, its scores, and one small sequence from the frames to the table."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from backdrop.errors import BackdropError
from backdrop.student.cues import CUES
from backdrop.student.targets import IGNORED
from benchmarks import cues
from benchmarks.cues import ALL, mean_overlap, rows, table

FRAMES, SIZE = 12, (160, 96)


def moving_disk(root: Path) -> None:
    """A data set of DAVIS's layout with one sequence: a textured disk crosses a textured wall."""
    rng = np.random.default_rng(3)
    wall, skin = (cv2.GaussianBlur(rng.integers(0, 255, (*SIZE[::-1], 3), np.uint8), (0, 0), 2) for _ in range(2))
    wall, skin = wall // 2, 128 + skin // 2
    for t in range(FRAMES):
        mask = cv2.circle(np.zeros(SIZE[::-1], np.uint8), (30 + 8 * t, 48), 18, 255, -1)
        image = np.where(mask[..., None] > 0, np.roll(skin, 8 * t, axis=1), wall)
        for folder, picture, ending in (("JPEGImages", image, "jpg"), ("Annotations", mask, "png")):
            path = root / folder / "480p" / "disk" / f"{t:05d}.{ending}"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), picture)


def test_each_cue_has_a_row_without_it_and_the_prior_stands_apart() -> None:
    names = list(CUES)
    found = rows(names)
    own = [name for name in names if name != "prior"]
    assert found[ALL][0] == own
    for name in own:
        assert found[f"without {name}"][0] == [other for other in own if other != name]
    assert found["all cues and the prior"][0] == names
    assert not any("prior" in row for row in rows(own))


class Truth(list):
    """Stored masks as an archive of frames gives them."""

    mask = list.__getitem__
    path = "frames.zip"


def test_what_is_not_known_is_not_found() -> None:
    truth = np.zeros((4, 6, 8), np.uint8)
    truth[:, 2:4, 2:6] = 255
    frames = Truth(truth)
    labels = np.where(truth > 0, IGNORED - 1, 0).astype(np.uint8)
    assert mean_overlap(frames, labels, 1) == 1
    labels[:, :, 4:] = IGNORED
    assert mean_overlap(frames, labels, 1) == 0.5


def test_truth_only_where_no_label_is_made_is_said() -> None:
    frames = Truth([None, np.zeros((6, 8), np.uint8), None, None])
    with pytest.raises(BackdropError, match=r"no frame of frames\.zip has truth and a pseudo-mask"):
        mean_overlap(frames, np.zeros((4, 6, 8), np.uint8), 2)


def test_a_sequence_from_its_frames_to_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    moving_disk(tmp_path / "davis")
    out = tmp_path / "out.json"
    command = ["cues", "davis2016", str(tmp_path / "davis"), "--jobs", "1", "--work", str(tmp_path / "work")]
    monkeypatch.setattr(sys, "argv", [*command, "--out", str(out)])
    cues.main()
    said = capsys.readouterr().out
    (result,) = json.loads(out.read_text(encoding="utf-8"))
    assert result["J"][ALL] > 0.6
    assert set(result["J"]) == set(rows([name for name in CUES if name != "prior"]))
    assert said.startswith(table([result]))
    begun = (tmp_path / "work" / "disk" / "result.json").stat().st_mtime_ns
    cues.main()
    assert capsys.readouterr().out == said
    assert (tmp_path / "work" / "disk" / "result.json").stat().st_mtime_ns == begun, "it was not run again"
