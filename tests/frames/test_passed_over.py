"""What a layout leaves out: named, or documented; names in either Unicode form; one bad entry costs itself alone."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from backdrop.errors import BackdropError
from backdrop.frames.entries import passed_over, same_named
from backdrop.frames.layouts import list_sequences
from backdrop.frames.stage import extract_all
from tests.frames.test_frames import film, image_folder, picture, save, section

MASK = np.zeros((32, 48), np.uint8)


def warnings(capfd: pytest.CaptureFixture[str]) -> list[str]:
    return [line for line in capfd.readouterr().err.splitlines() if line.startswith("warning: ")]


@pytest.mark.parametrize("footage", ["video", "folder", "both"])
def test_photos_beside_sequences_are_named_as_ignored(footage: str, tmp_path: Path, capfd) -> None:
    for t in range(5):
        save(tmp_path / "in" / f"photo{t}.png", picture(t))
    if footage != "folder":
        film(tmp_path / "in" / "run.mp4", 3)
    if footage != "video":
        image_folder(tmp_path / "in" / "walk", 3)
    index = extract_all(section(tmp_path / "in"), tmp_path / "out")
    assert list(index.sequence) == {"video": ["run"], "folder": ["walk"], "both": ["run", "walk"]}[footage]
    assert set(index.status) == {"ok"}
    (line,) = warnings(capfd)
    assert "photos beside videos or folders of images: 5 (photo0.png, photo1.png, photo2.png, ...)" in line


def test_photos_alone_are_one_sequence_and_what_lies_beside_them_is_named(tmp_path: Path, capfd) -> None:
    image_folder(tmp_path / "in", 3)
    save(tmp_path / "in" / "masks" / "in" / "00001.png", MASK)
    (tmp_path / "in" / "notes").mkdir()
    (tmp_path / "in" / "x.heic").touch()
    (tmp_path / "in" / "readme.txt").touch()
    index = extract_all(section(tmp_path / "in"), tmp_path / "out")
    assert list(zip(index.sequence, index.status, index.frames, index.masks, strict=True)) == [("in", "ok", 3, 1)]
    (line,) = warnings(capfd)
    assert "folders: 1 (notes)" in line
    assert "neither image nor video: 1 (x.heic)" in line
    assert "readme" not in line
    assert "masks" not in line


def _link(path: Path, to: str = "nowhere") -> None:
    path.symlink_to(to)


PASSED = {
    "hidden video": (lambda root: film(root / ".gone.mp4", 3), "hidden: 1 (.gone.mp4)"),
    "hidden photo": (lambda root: save(root / ".gone.png", picture()), "hidden: 1 (.gone.png)"),
    "thumbnails": (lambda root: image_folder(root / "@eaDir", 3), "of another program: 1 (@eaDir)"),
    "resource forks": (lambda root: image_folder(root / "__MACOSX", 3), "of another program: 1 (__MACOSX)"),
    "waste paper": (lambda root: image_folder(root / "$RECYCLE.BIN", 3), "of another program: 1 ($RECYCLE.BIN)"),
    "unknown kind": (lambda root: (root / "x.heic").touch(), "neither image nor video: 1 (x.heic)"),
    "dangling link": (lambda root: _link(root / "link"), "a link that leads nowhere: 1 (link)"),
    "dangling photo": (lambda root: _link(root / "link.png"), "a link that leads nowhere: 1 (link.png)"),
    "link to itself": (lambda root: _link(root / "link", "link"), "a link that leads nowhere: 1 (link)"),
    "pipe": (lambda root: os.mkfifo(root / "pipe"), "no regular file: 1 (pipe)"),
    "mask folder": (
        lambda root: save(root / "masks" / "ran" / "000000.png", MASK),
        "without a sequence: 1 (masks/ran)",
    ),
    "mask file": (lambda root: save(root / "masks" / "000000.png", MASK), "without a sequence: 1 (masks/000000.png)"),
}


@pytest.mark.parametrize("kind", PASSED)
def test_what_is_no_footage_is_named(kind: str, tmp_path: Path, capfd) -> None:
    make, says = PASSED[kind]
    film(tmp_path / "in" / "run.mp4", 3)
    make(tmp_path / "in")
    index = extract_all(section(tmp_path / "in"), tmp_path / "out")
    assert list(zip(index.sequence, index.status, strict=True)) == [("run", "ok")]
    (line,) = warnings(capfd)
    assert says in line


def test_what_everybody_has_is_not_told(tmp_path: Path, capfd) -> None:
    film(tmp_path / "in" / "run.mp4", 3)
    for name in (".DS_Store", "._run.mp4", "notes.txt", "Thumbs.db"):
        (tmp_path / "in" / name).touch()
    (tmp_path / "in" / ".git").mkdir()
    save(tmp_path / "in" / "Masks" / "run" / "000001.png", MASK)
    index = extract_all(section(tmp_path / "in"), tmp_path / "out")
    assert list(zip(index.sequence, index.masks, strict=True)) == [("run", 1)]
    assert warnings(capfd) == []


def test_a_broken_entry_is_skipped_by_name(tmp_path: Path, locked_folders: None) -> None:
    root = tmp_path / "in"
    image_folder(root / "good", 3)
    image_folder(root / "locked", 3)
    image_folder(root / "holey", 4)
    _link(root / "gone.mp4")
    os.mkfifo(root / "pipe.mp4")
    (root / "holey" / "00001.jpg").unlink()
    _link(root / "holey" / "00001.jpg")
    index = extract_all(section(root), tmp_path / "out").set_index("sequence")
    assert dict(index.status) == dict.fromkeys(("gone", "locked", "pipe"), "skipped") | {"good": "ok", "holey": "ok"}
    assert "locked: Permission denied" in index.reason["locked"]
    assert "gone.mp4: a link that leads nowhere" in index.reason["gone"]
    assert "pipe.mp4: no regular file" in index.reason["pipe"]
    assert "a link that leads nowhere: 1 (00001.jpg)" in index.reason["holey"]
    assert index.frames["holey"] == 3


def test_a_link_is_followed_and_no_loop_is(tmp_path: Path, capfd) -> None:
    image_folder(tmp_path / "elsewhere", 3)
    image_folder(tmp_path / "in" / "walk", 3)
    _link(tmp_path / "in" / "link", "../elsewhere")
    _link(tmp_path / "in" / "walk" / "again", "..")
    index = extract_all(section(tmp_path / "in"), tmp_path / "out")
    assert list(zip(index.sequence, index.frames, strict=True)) == [("link", 3), ("walk", 3)]
    (line,) = warnings(capfd)
    assert "walk (ok): beside its images: folders: 1 (again)" in line


@pytest.mark.parametrize(("disk", "given"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_names_are_equal_in_either_unicode_form(disk: str, given: str, tmp_path: Path, capfd) -> None:
    on_disk, other = (unicodedata.normalize(form, "Übung é") for form in (disk, given))
    root = tmp_path / on_disk
    film(root / f"{on_disk}.mp4", 3)
    image_folder(root / f"{on_disk} 2", 3, f"{on_disk}{{}}.png")
    save(root / "masks" / other / "000001.png", MASK)
    save(root / "masks" / f"{other} 2" / f"{other}2.png", MASK)
    index = extract_all(section(tmp_path / other, only=[f"{other}*"]), tmp_path / "out")
    assert list(zip(index.sequence, index.masks, strict=True)) == [("Ubung_e_2", 1), ("Ubung_e", 1)]
    assert warnings(capfd) == []
    save(root / f"{on_disk} 2" / f"{other}2.png", picture())
    assert "two images are named" in list_sequences("videos", root)[0].fault
    assert same_named(tmp_path / other / f"{other}.mp4") == root / f"{on_disk}.mp4"


def test_splits_name_what_lies_beside_them(tmp_path: Path, capfd) -> None:
    image_folder(tmp_path / "train" / "a", 3)
    film(tmp_path / "test" / "b.mp4", 3)
    film(tmp_path / "c.mp4", 3)
    for name in ("b", "train/a", "train/d", "e"):
        save(tmp_path / "masks" / name / "00001.png", MASK)
    assert [s.name for s in list_sequences("h36m", tmp_path) if s.masks] == ["b", "a"]
    said = " ".join(warnings(capfd))
    assert "beside the splits: 1 (c.mp4)" in said
    assert "without a sequence: 2 (masks/e, train/d)" in said


def test_many_names_are_counted() -> None:
    pairs = [(f"{i}.png", "hidden") for i in range(9)] + [("x", "no regular file")]
    assert passed_over(pairs) == "hidden: 9 (0.png, 1.png, 2.png, ...); no regular file: 1 (x)"


def test_a_root_of_dangling_links_says_so(tmp_path: Path, capfd) -> None:
    _link(tmp_path / "a.png")
    with pytest.raises(BackdropError, match="holds no sequence"):
        list_sequences("videos", tmp_path)
    assert "a link that leads nowhere: 1 (a.png)" in warnings(capfd)[0]


def test_given_videos_beside_a_photo_are_the_sequences(real_data: Path, tmp_path: Path, capfd) -> None:
    folder = real_data / "cases" / "mixed_root"
    if not folder.is_dir():
        pytest.skip("BACKDROP_REAL_DATA holds no cases/")
    index = extract_all(section(folder), tmp_path / "out")
    assert list(zip(index.sequence, index.status, strict=True)) == [("run1", "ok"), ("run2", "ok")]
    (line,) = warnings(capfd)
    assert "(empty.png)" in line
