"""Listing, splits, masks and extraction, on real files in real folders."""

from __future__ import annotations

import io
import itertools
import os
import re
import shutil
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from backdrop.app.sources import find_sources
from backdrop.errors import BackdropError, StrictError
from backdrop.frames import extract, names
from backdrop.frames.layouts import LAYOUTS, list_sequences, listing
from backdrop.frames.parameters import LAYOUT_NAMES, DataParams
from backdrop.frames.splits import assign_splits
from backdrop.frames.stage import extract_all
from backdrop.io import archives, frame_archive, images
from backdrop.io.index import read_index
from backdrop.io.mask_images import decode_mask
from backdrop.video import decode, encode


def section(root: Path, **changed) -> DataParams:
    """A section `data` of the parameters."""
    values = {
        "layout": "videos",
        "root": str(root),
        "path": str(root),
        "labels": str(root),
        "roi": None,
        "roi_path": str(root),
        "size": None,
        "every": 1,
        "limit": None,
        "budget": 0,
    }
    others = {"budget": 0, "protocol": "self", "val": [], "test": [], "only": [], "strict": False, "quality": 90}
    return DataParams.model_validate({**values, **others, **changed})


def picture(t: int = 0, size: tuple[int, int] = (48, 32)) -> np.ndarray:
    """A ramp, and a bright square that moves with t."""
    image = np.zeros((size[1], size[0], 3), np.uint8)
    image[:, :, 0] = np.linspace(0, 200, size[0], dtype=np.uint8)
    image[8:16, 2 * t : 2 * t + 8] = 255
    return image


def save(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


def image_folder(folder: Path, count: int = 4, name: str = "{:05d}.jpg", size: tuple[int, int] = (48, 32)) -> None:
    for t in range(count):
        save(folder / name.format(t), picture(t, size))


def film(path: Path, count: int = 6) -> None:
    encode.encode_video(path, [picture(t) for t in range(count)])


def only(index):
    assert len(index) == 1
    return index.iloc[0]


# ------------------------------------------------------------------------------------------------ names


def test_names_sort_with_numbers_as_numbers_and_the_rest_by_code_points() -> None:
    order = ["", "01", "1", "1a", "2", "10", "A2", "a", "a01", "a1", "a1b", "a9", "a10", "a-1", "b", "e9"]
    order += ["frame_9.png", "frame_10.png", "z1", "é1", "é2", "é10", "\u0663"]
    assert sorted(order, key=lambda name: (names.natural_key(name), name)) == order
    assert names.natural_key("a01") == names.natural_key("a1")


def test_the_parameters_name_exactly_the_layouts_there_are() -> None:
    assert tuple(LAYOUTS) == LAYOUT_NAMES


@given(st.text(st.characters(codec=None)))
def test_a_safe_name_is_safe(text: str) -> None:
    name = names.safe_name(text)
    assert re.fullmatch(r"([A-Za-z0-9]([A-Za-z0-9._-]{0,78}[A-Za-z0-9])?)?", name)
    assert names.safe_name(name) == name


@pytest.mark.parametrize(
    ("text", "name"),
    [("parkour", "parkour"), ("my dog's walk", "my_dog_s_walk"), ("../../etc", "etc"), ("-rf", "rf")]
    + [("Übung", "Ubung"), ("a\nb", "a_b"), ("視頻", ""), ("a\udcffb", "a_b"), ("x" * 300, "x" * 80)],
)
def test_safe_names_by_example(text: str, name: str) -> None:
    assert names.safe_name(text) == name


def test_odd_file_names_make_unique_archives_inside_the_folder(tmp_path: Path) -> None:
    root, out = tmp_path / "in", tmp_path / "out"
    odd = ["a b", "a_b", "A_b", "-x", "quo'te\"", "new\nline", "視頻", "動画", "..hidden-not", "plain"]
    for name in odd:
        if not name.startswith("."):
            image_folder(root / name, 2)
    index = extract_all(section(root), out)
    assert set(index.status) == {"ok"}
    assert len({name.lower() for name in index.sequence}) == len(index) == 9
    assert {p.name for p in out.iterdir()} == {"index.csv", *(f"{name}.zip" for name in index.sequence)}
    assert {"plain", "quo_te", "new_line"} <= set(index.sequence)
    assert all("\n" not in source for source in index.source)
    # a name of a colliding source depends on its own path only
    shutil.rmtree(root / "a_b")
    assert set(extract_all(section(root), out).sequence) < set(index.sequence)
    assert not (out / f"{index.sequence[index.source == 'a_b'].item()}.zip").exists()


def test_a_file_name_of_no_encoding_is_shown_not_fatal(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path) + b"/in/caf\xe9"
    os.makedirs(folder)
    image_folder(Path(os.fsdecode(folder)), 2)
    row = only(extract_all(section(tmp_path / "in"), tmp_path / "out"))
    assert (row.sequence, row.source) == ("caf", "caf\\xe9")
    assert only(read_index(tmp_path / "out")).sequence == row.sequence


# ------------------------------------------------------------------------------------------- videos layout


def test_videos_and_image_folders_mix(tmp_path: Path) -> None:
    root, out = tmp_path / "in", tmp_path / "out"
    image_folder(root / "walk", 12, "img{}.jpg")  # natural order: img9 before img10
    film(root / "run.mp4")
    save(root / "masks" / "walk" / "img11.png", np.full((32, 48), 255, np.uint8))
    save(root / "masks" / "run" / "000002.png", np.zeros((32, 48), np.uint8))
    (root / "notes.txt").write_text("not a video, and no harm")
    index = extract_all(section(root, size=(24, 20)), out).set_index("sequence")
    assert dict(index.frames) == {"run": 6, "walk": 12}
    assert dict(index.masks) == {"run": 1, "walk": 1}
    assert set(index.status) == {"ok"}
    assert (index.width["run"], index.height["run"], index.source_width["run"]) == (24, 20, 48)
    walk, run = (frame_archive.FrameArchive(out / f"{name}.zip") for name in ("walk", "run"))
    assert walk.names == [f"img{t}" for t in range(12)]
    assert [t for t in range(12) if walk.has_mask(t)] == [11]
    assert walk.mask(11).shape == (32, 48)  # the truth keeps its own size
    assert (walk.mask(11) == 255).all()
    assert walk.image(5).shape == (20, 24, 3)
    assert [t for t in range(6) if run.has_mask(t)] == [2]
    for t in range(6):
        expected = images.resize(picture(t), (24, 20))
        assert np.abs(run.image(t).astype(int) - expected).mean() < 20


@pytest.mark.parametrize("single", ["film.mp4", "frames"])
def test_the_root_may_be_one_video_or_one_image_folder(tmp_path: Path, single: str) -> None:
    film(tmp_path / "film.mp4")
    image_folder(tmp_path / "frames", 3)
    row = only(extract_all(section(tmp_path / single), tmp_path / "out"))
    assert row.sequence == Path(single).stem


def test_every_and_limit(tmp_path: Path) -> None:
    image_folder(tmp_path / "in" / "a", 11)
    encode.encode_video(tmp_path / "in" / "b.mp4", [picture(t) for t in range(11)], 20.0)
    for name in ("a", "b"):
        save(tmp_path / "in" / "masks" / name / "00004.png", np.zeros((32, 48), np.uint8))
    index = extract_all(section(tmp_path / "in", every=2, limit=4), tmp_path / "out")
    assert list(index.frames) == [4, 4]
    assert list(index.declared_frames) == [11, 11]
    assert list(index.status) == ["ok", "ok"]
    assert list(index.fps) == [12.5, 10.0]
    a, b = (frame_archive.FrameArchive(tmp_path / "out" / f"{name}.zip") for name in "ab")
    assert a.names == ["00000", "00002", "00004", "00006"]
    assert b.names == ["000000", "000002", "000004", "000006"]
    assert b.times == pytest.approx([0, 0.1, 0.2, 0.3])
    assert [t for t in range(4) if b.has_mask(t)] == [t for t in range(4) if a.has_mask(t)] == [2]


def _mixed(root: Path) -> None:
    image_folder(root / "bad", 3)
    save(root / "bad" / "00003.jpg", picture(3, (50, 32)))
    save(root / "bad" / "00004.jpg", picture(4, (60, 32)))


def _mask_size(root: Path) -> None:
    image_folder(root / "bad", 3)
    save(root / "masks" / "bad" / "00001.png", np.zeros((16, 24), np.uint8))


def _mask_color(root: Path) -> None:
    image_folder(root / "bad", 3)
    save(root / "masks" / "bad" / "00001.png", picture())


def _mask_names(root: Path) -> None:
    image_folder(root / "bad", 3)
    save(root / "masks" / "bad" / "first.png", np.zeros((32, 48), np.uint8))


def _flipped(root: Path) -> None:
    image_folder(root / "bad", 3)
    data = (root / "bad" / "00001.jpg").read_bytes()
    (root / "bad" / "00001.jpg").write_bytes(bytes([data[0] ^ 4]) + data[1:])


def _twice(root: Path) -> None:
    image_folder(root / "bad", 3)
    save(root / "bad" / "00001.png", picture())


BAD = {
    "mixed sizes": (_mixed, r"00003\.jpg is 50x32.*48x32"),
    "mask size": (_mask_size, r"00001\.png is 24x16.*00001\.jpg is 48x32"),
    "mask color": (_mask_color, r"masks/bad/00001\.png is colored"),
    "mask names": (_mask_names, r"masks/bad is named after a frame.*00000\.png"),
    "flipped": (_flipped, r"bad/00001\.jpg"),
    "twice": (_twice, r"00001\.\*"),
    "one frame": (lambda root: image_folder(root / "bad", 1), "at least 2"),
    "empty folder": (lambda root: (root / "bad").mkdir(parents=True), r"bad: .*empty.*\.mp4.*\.jpg"),
    "zero bytes": (lambda root: (root / "bad.mp4").write_bytes(b""), r"bad\.mp4.*0 bytes"),
    "no video": (lambda root: (root / "bad.avi").write_text("text" * 99), r"bad\.avi is no readable video"),
    "one-frame video": (lambda root: film(root / "bad.mp4", 1), "at least 2"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_sequence_is_named_and_the_others_go_on(tmp_path: Path, capfd, kind: str) -> None:
    make, says = BAD[kind]
    root, out = tmp_path / "in", tmp_path / "out"
    image_folder(root / "good", 3)
    make(root)
    index = extract_all(section(root), out)
    row = index.set_index("sequence").loc["bad"]
    assert (row.status, row.frames) == ("skipped", 0)
    assert re.search(says, row.reason)
    warning = [line for line in capfd.readouterr().err.splitlines() if "warning: bad (skipped)" in line]
    assert len(warning) == 1
    assert re.search(says, warning[0])
    assert {p.name for p in out.iterdir()} == {"good.zip", "index.csv"}
    assert list(read_index(out, usable=True).sequence) == ["good"]
    # strict: an error that names it, and the earlier output stays as it was
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    with pytest.raises(StrictError, match="bad"):
        extract_all(section(root, strict=True), out)
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before
    # alone: an error
    shutil.rmtree(root / "good")
    with pytest.raises(BackdropError, match="bad") as fault:
        extract_all(section(root), tmp_path / "other")
    assert re.search(says, str(fault.value))
    assert not (tmp_path / "other").exists()


def test_a_truncated_video_keeps_its_frames_as_damaged(tmp_path: Path) -> None:
    root = tmp_path / "in"
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 255, (32, 48, 3), dtype=np.uint8) for _ in range(20)]
    encode.encode_video(root / "cut.mp4", frames, codec="mpeg4")
    data = (root / "cut.mp4").read_bytes()
    (root / "cut.mp4").write_bytes(data[: len(data) * 7 // 10])
    row = only(extract_all(section(root), tmp_path / "out"))
    assert row.status == "damaged"
    assert 2 <= row.frames < 20
    assert row.declared_frames == 20
    assert f"{row.frames} of 20 declared frames" in row.reason
    assert len(frame_archive.FrameArchive(tmp_path / "out" / "cut.zip")) == row.frames
    assert list(read_index(tmp_path / "out", usable=True).sequence) == ["cut"]
    with pytest.raises(StrictError, match="cut"):
        extract_all(section(root, strict=True), tmp_path / "out")


def test_masks_of_no_frame_are_a_warning(tmp_path: Path, capfd) -> None:
    film(tmp_path / "in" / "a.mp4", 4)
    for t in (0, 4, 5):
        save(tmp_path / "in" / "masks" / "a" / f"{t:05d}.png", np.zeros((32, 48), np.uint8))
    row = only(extract_all(section(tmp_path / "in"), tmp_path / "out"))
    assert (row.status, row.masks) == ("ok", 1)
    assert "masks without a frame: 2 (first: frame 4)" in capfd.readouterr().err


def test_frame_names_are_safe_file_names(tmp_path: Path) -> None:
    for name in ("a b.jpg", "c'd.jpg"):
        save(tmp_path / "in" / "x" / name, picture())
    extract_all(section(tmp_path / "in"), tmp_path / "out")
    assert frame_archive.FrameArchive(tmp_path / "out" / "x.zip").names == ["a_b", "c_d"]
    save(tmp_path / "in" / "x" / "a_b.jpg", picture())
    extract_all(section(tmp_path / "in"), tmp_path / "out")
    assert frame_archive.FrameArchive(tmp_path / "out" / "x.zip").names == ["000000", "000001", "000002"]


def test_bytes_do_not_depend_on_the_number_of_processes(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        film(tmp_path / "in" / f"{name}.mp4")
    image_folder(tmp_path / "in" / "007", 3)
    (tmp_path / "in" / "bad.mp4").write_bytes(b"")
    extract_all(section(tmp_path / "in"), tmp_path / "one", workers=1)
    index = extract_all(section(tmp_path / "in"), tmp_path / "two", workers=2)
    one, two = ({p.name: p.read_bytes() for p in (tmp_path / n).iterdir()} for n in ("one", "two"))
    assert one == two
    assert read_index(tmp_path / "two").equals(index)
    assert "007" in set(read_index(tmp_path / "two", usable=True).sequence)  # a name, not the number 7


def test_a_single_video_uses_threads_with_the_same_result(tmp_path: Path) -> None:
    film(tmp_path / "a.mp4", 12)
    sequence = list_sequences("videos", tmp_path / "a.mp4")[0]
    for threads in (1, 3):
        extract.extract_sequence(sequence, tmp_path / str(threads), threads=threads)
    assert (tmp_path / "1" / "a.zip").read_bytes() == (tmp_path / "3" / "a.zip").read_bytes()


def test_frames_stream() -> None:
    pulled = itertools.count()
    endless = (next(pulled) for _ in itertools.repeat(None))
    with ThreadPoolExecutor(2) as pool:
        results = extract._in_order(pool, lambda n: 2 * n, endless, ahead=4)
        assert list(itertools.islice(results, 10)) == list(range(0, 20, 2))
        results.close()
    assert next(pulled) <= 10 + 4


def test_no_index_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BackdropError, match="run the stage frames first"):
        read_index(tmp_path)
    (tmp_path / "index.csv").write_text("a,b\n1,2\n")
    with pytest.raises(BackdropError, match="not an index"):
        read_index(tmp_path)


# ----------------------------------------------------------------------------------------------- layouts


def test_unknown_layouts_and_missing_roots_say_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(BackdropError) as fault:
        list_sequences("imagenet", tmp_path)
    assert all(name in str(fault.value) for name in LAYOUTS)
    with pytest.raises(BackdropError, match="gone does not exist"):
        list_sequences("videos", tmp_path / "gone")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_empty_root_names_itself_and_what_is_expected(tmp_path: Path, layout: str) -> None:
    with pytest.raises(BackdropError) as fault:
        list_sequences(layout, tmp_path)
    assert str(tmp_path) in str(fault.value)
    assert LAYOUTS[layout].expects in str(fault.value)
    assert ".mp4" in str(fault.value)
    assert ".jpg" in str(fault.value)


def test_synthetic(tmp_path: Path) -> None:
    for split, name in (("train", "a"), ("val", "b"), ("test", "c")):
        film(tmp_path / "in" / "videos" / split / f"{name}.mp4", 3)
        with archives.ArchiveWriter(tmp_path / "in" / "truth" / f"{name}.zip") as writer:
            for t in range(3):
                mask = (picture(t)[:, :, 1] > 0).astype(np.uint8) * 255
                writer.add(f"masks/{t:06d}.png", images.encode_png(mask))
    index = extract_all(section(tmp_path / "in", layout="synthetic", protocol="held_out"), tmp_path / "out")
    assert list(zip(index.sequence, index.split, strict=True)) == [("c", "test"), ("a", "train"), ("b", "val")]
    assert list(index.masks) == [3, 3, 3]
    archive = frame_archive.FrameArchive(tmp_path / "out" / "b.zip")
    assert all(np.array_equal(archive.mask(t) == 255, picture(t)[:, :, 1] > 0) for t in range(3))
    (tmp_path / "in" / "truth" / "b.zip").write_bytes(b"no zip")
    index = extract_all(section(tmp_path / "in", layout="synthetic"), tmp_path / "out").set_index("sequence")
    assert index.status["b"] == "skipped"
    assert "b.zip is no readable zip" in index.reason["b"]
    shutil.copy(tmp_path / "in" / "videos" / "val" / "b.mp4", tmp_path / "in" / "videos" / "train" / "b.mp4")
    with pytest.raises(BackdropError, match="two videos are named b"):
        list_sequences("synthetic", tmp_path / "in")


def test_davis(tmp_path: Path) -> None:
    for name in ("bear", "dog"):
        image_folder(tmp_path / "JPEGImages" / "480p" / name, 3)
        for t in range(3):
            save(tmp_path / "Annotations" / "480p" / name / f"{t:05d}.png", np.zeros((32, 48), np.uint8))
    found = list_sequences("davis", tmp_path)
    assert [(s.name, s.split, len(s.images), len(s.masks), s.fps) for s in found] == [
        ("bear", None, 3, 3, 24.0),
        ("dog", None, 3, 3, 24.0),
    ]
    lists = tmp_path / "ImageSets" / "480p"
    lists.mkdir(parents=True)
    line = "/JPEGImages/480p/{0}/00000.jpg /Annotations/480p/{0}/00000.png\n"
    (lists / "train.txt").write_text(line.format("bear"))
    (lists / "val.txt").write_text(line.format("dog"))
    assert [s.split for s in list_sequences("davis", tmp_path)] == ["train", "test"]


def test_cdnet(tmp_path: Path) -> None:
    folder = tmp_path / "in" / "PTZ" / "zoom"
    for t in range(1, 6):
        save(folder / "input" / f"in{t:06d}.jpg", picture(t))
        save(folder / "groundtruth" / f"gt{t:06d}.png", np.zeros((32, 48), np.uint8))
    (folder / "temporalROI.txt").write_text("2 4\n")
    labels = np.zeros((32, 48), np.uint8)
    labels[0, :5] = (0, 50, 85, 170, 255)
    save(folder / "groundtruth_5labels" / "gt000003.png", labels)
    row = only(extract_all(section(tmp_path / "in", layout="cdnet"), tmp_path / "out"))
    assert (row.sequence, row.frames, row.masks) == ("zoom", 5, 3)  # outside the interval nothing is known
    archive = frame_archive.FrameArchive(tmp_path / "out" / "zoom.zip")
    assert archive.mask(2)[0, :5].tolist() == [0, 0, 128, 128, 255]


@pytest.mark.parametrize("text", [b"", b"2\n", b"\xff\xfe2 4 6", None])
def test_without_a_readable_interval_no_truth_of_cdnet_is_taken(text: bytes | None, tmp_path: Path) -> None:
    """What CDnet withholds looks like empty masks."""
    folder = tmp_path / "in" / "zoom"
    for t in range(1, 4):
        save(folder / "input" / f"in{t:06d}.jpg", picture(t))
        save(folder / "groundtruth" / f"gt{t:06d}.png", np.zeros((32, 48), np.uint8))
    if text is None:
        (folder / "temporalROI.txt").mkdir()
    else:
        (folder / "temporalROI.txt").write_bytes(text)
    row = only(extract_all(section(tmp_path / "in", layout="cdnet"), tmp_path / "out"))
    assert (row.status, row.frames, row.masks) == ("ok", 3, 0)
    assert "no truth is read: " in row.reason
    assert "temporalROI.txt" in row.reason


def test_bms(tmp_path: Path) -> None:
    for t in range(1, 4):
        save(tmp_path / "in" / "people" / f"people_{t:03d}.jpg", picture(t))
    instances = np.zeros((32, 48), np.uint8)
    instances[0, :3] = (0, 128, 255)
    save(tmp_path / "in" / "people" / "people_002.pgm", instances)
    row = only(extract_all(section(tmp_path / "in", layout="bms"), tmp_path / "out"))
    assert (row.frames, row.masks) == (3, 1)
    assert frame_archive.FrameArchive(tmp_path / "out" / "people.zip").mask(1)[0, :3].tolist() == [0, 255, 255]


def test_ski_ptz(tmp_path: Path) -> None:
    root = tmp_path / "in"
    for trial in (103, 302, 405, 999):
        image_folder(root / "Videos_Small" / f"trial_{trial}_cam1", 3, "frame_{:06d}.jpg")
    mask = np.zeros((64, 96), np.uint8)
    mask[:32] = 255
    save(root / "Segmentation_masks" / "trial_302_cam1_frame_000001.jpg", mask)
    data = section(root, layout="ski_ptz", protocol="held_out")
    index = extract_all(data, tmp_path / "out").set_index("sequence")
    assert dict(index.split) == {"trial_103_cam1": "train", "trial_302_cam1": "val", "trial_405_cam1": "test"}
    stored = frame_archive.FrameArchive(tmp_path / "out" / "trial_302_cam1.zip").mask(1)
    assert stored.shape == (64, 96)  # masks may be of the large videos
    assert np.array_equal(stored, mask)


@pytest.mark.parametrize("layout", ["handheld190k", "fs_singles", "h36m"])
def test_plain_splits(tmp_path: Path, layout: str) -> None:
    image_folder(tmp_path / "train" / "a", 3)
    film(tmp_path / "test" / "b.mp4", 3)
    save(tmp_path / "masks" / "b" / "000001.png", np.zeros((32, 48), np.uint8))
    found = list_sequences(layout, tmp_path)
    assert [(s.name, s.split, sorted(s.masks)) for s in found] == [("b", "test", [1]), ("a", "train", [])]


# ------------------------------------------------------------------------------------------------ splits


def _three(*splits: str | None) -> list[listing.Sequence]:
    return [listing.Sequence(n, n, split=s) for n, s in zip("abc", splits or (None,) * 3, strict=True)]


def test_splits() -> None:
    def splits(sequences: list[listing.Sequence]) -> list[str | None]:
        return [s.split for s in sequences]

    assert splits(assign_splits(_three("train", "val", "test"), "self")) == ["all"] * 3
    assert splits(assign_splits(_three("train", "val", "test"), "held_out")) == ["train", "val", "test"]
    assert splits(assign_splits(_three(), "held_out", ["b"], ["c*"])) == ["train", "val", "test"]
    with pytest.raises(BackdropError, match=r"data\.val and data\.test"):
        assign_splits(_three(), "held_out")
    with pytest.raises(BackdropError, match=r"data\.test: no sequence matches 'dog\*'.*a, b, c"):
        assign_splits(_three(), "held_out", [], ["dog*"])
    with pytest.raises(BackdropError, match="both match b"):
        assign_splits(_three(), "held_out", ["b"], ["b"])
    with pytest.raises(BackdropError, match="no usable train"):
        assign_splits(_three(), "held_out", [], ["*"])
    with pytest.raises(BackdropError, match="no usable test"):
        assign_splits(_three(), "held_out", ["a"], [])


def test_a_skipped_sequence_must_not_empty_a_split(tmp_path: Path) -> None:
    image_folder(tmp_path / "in" / "a", 3)
    image_folder(tmp_path / "in" / "b", 1)
    with pytest.raises(BackdropError, match="no usable test"):
        extract_all(section(tmp_path / "in", protocol="held_out", test=["b"]), tmp_path / "out")


# ------------------------------------------------------------------------------------------------- masks


def _bytes(image: Image.Image) -> bytes:
    data = io.BytesIO()
    image.save(data, "PNG")
    return data.getvalue()


def _row(*values: int, dtype: type = np.uint8) -> np.ndarray:
    return np.array([values], dtype)


@pytest.mark.parametrize(
    ("values", "rule", "expected"),
    [
        ((0, 255), "any", (0, 255)),
        ((0, 1), "any", (0, 255)),
        ((0, 1, 2, 3), "any", (0, 255, 255, 255)),
        ((0, 0), "any", (0, 0)),
        ((0, 128, 255), "any", (0, 128, 255)),
        ((3, 100, 129, 250), "any", (0, 0, 255, 255)),
        ((0, 128, 255), "instances", (0, 255, 255)),
        ((0, 50, 85, 170, 255), "cdnet", (0, 0, 128, 128, 255)),
        ((0, 200, 201, 255), "over200", (0, 0, 255, 255)),
    ],
)
def test_mask_values(values: tuple[int, ...], rule: str, expected: tuple[int, ...]) -> None:
    gray = _row(*values)
    kinds = [Image.fromarray(gray), Image.fromarray(np.dstack([gray] * 3)), Image.fromarray(gray).convert("RGBA")]
    for kind in [*kinds, Image.fromarray(gray).convert("LA")]:
        assert decode_mask(_bytes(kind), rule)[0].tolist() == list(expected)


def test_masks_of_other_depths() -> None:
    assert decode_mask(_bytes(Image.fromarray(_row(0, 65535, dtype=np.uint16))))[0].tolist() == [0, 255]
    assert decode_mask(_bytes(Image.fromarray(_row(0, 7, dtype=np.uint16))))[0].tolist() == [0, 255]
    assert decode_mask(_bytes(Image.fromarray(_row(0, 255) > 0)))[0].tolist() == [0, 255]


def test_palette_masks() -> None:
    palette = Image.fromarray(_row(0, 1, 2, 255), "P")
    palette.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0] + [9] * 756 + [224, 224, 192])
    assert decode_mask(_bytes(palette))[0].tolist() == [0, 255, 255, 128]
    palette.putpalette([0, 0, 0] * 255 + [255, 255, 255])
    assert decode_mask(_bytes(palette))[0].tolist() == [0, 255, 255, 255]


def test_unreadable_masks_are_named(tmp_path: Path) -> None:
    save(tmp_path / "m.png", picture())
    with pytest.raises(BackdropError, match=r"m\.png is colored"):
        decode_mask(tmp_path / "m.png")
    save(tmp_path / "m.png", _row(0, 7))
    with pytest.raises(BackdropError, match=r"m\.png has the value 7"):
        decode_mask(tmp_path / "m.png", "cdnet")
    (tmp_path / "m.png").write_bytes(b"")
    with pytest.raises(BackdropError, match=r"m\.png is no readable image"):
        decode_mask(tmp_path / "m.png")


# --------------------------------------------------------------------------------------------- real data


def test_real_videos_decode_to_their_declared_frames_and_dog_is_davis_dog(real_data: Path) -> None:
    data = real_data / "data"
    declared = {"dance-twirl.mp4": 90, "dog.avi": 60, "parkour.mp4": 100}
    for name, count in declared.items():
        tally = decode.Tally()
        frames = decode.decode_video(data / "videos" / name, every=20, tally=tally)
        same = {index: image for index, _, image in frames}
        info = decode.probe(data / "videos" / name)
        assert (tally.decoded, info.declared_frames, info.fps) == (count, count, 24.0)
        assert decode.damage(info, tally) == ""
        davis = data / "DAVIS2016" / "JPEGImages" / "480p" / Path(name).stem
        others = [images.decode_image(davis / f"{i:05d}.jpg").astype(float) for i in same]
        for i, image in enumerate(same.values()):
            error = [np.abs(image - other).mean() for other in others]
            assert int(np.argmin(error)) == i
            assert error[i] < 15


def test_only_the_named_sequences_are_taken(tmp_path: Path) -> None:
    for name in ("camel", "car", "dog"):
        image_folder(tmp_path / "in" / name, 3)
    index = extract_all(section(tmp_path / "in", only=["ca*"]), tmp_path / "out")
    assert sorted(index.sequence) == ["camel", "car"]
    with pytest.raises(BackdropError, match=r"data\.only: no sequence matches 'cat'; there are camel, car, dog"):
        extract_all(section(tmp_path / "in", only=["dog", "cat"]), tmp_path / "out")


@pytest.mark.parametrize(
    ("layout", "folder", "count"), [("davis", "DAVIS2016", 8), ("cdnet", "CDnet2014", 2), ("bms", "BMS26", 4)]
)
def test_real_data_sets_are_listed_and_read(
    tmp_path: Path, real_data: Path, layout: str, folder: str, count: int
) -> None:
    root = real_data / "data" / folder
    found = list_sequences(layout, root)
    assert len(found) == count
    assert all(not s.fault and not s.note and s.masks for s in found)
    index = extract_all(section(root, layout=layout, limit=3, size=(160, 96)), tmp_path / "out")
    assert set(index.status) == {"ok"}
    with zipfile.ZipFile(tmp_path / "out" / f"{index.sequence[0]}.zip") as archive:
        assert "images/000002.jpg" in archive.namelist()


def test_a_folder_of_labels_is_no_sequence_and_one_that_holds_images_is(tmp_path: Path) -> None:
    for name in ("run", "labels/run"):
        (tmp_path / name).mkdir(parents=True)
        Image.new("RGB", (32, 24)).save(tmp_path / name / "0.png")
    assert [one.name for one in list_sequences("videos", tmp_path)] == ["run"]
    assert [source.file for source in find_sources([str(tmp_path)], tmp_path / "out", lambda text: None)] == [
        "run/0.png"
    ]
    Image.new("RGB", (32, 24)).save(tmp_path / "labels" / "0.png")
    assert [one.name for one in list_sequences("videos", tmp_path)] == ["labels", "run"]
