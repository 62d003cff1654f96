"""Archives: the same bytes each time, joined from parts, read in any process, damage named."""

from __future__ import annotations

import multiprocessing
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

from backdrop.errors import BackdropError, WriteError
from backdrop.io import archives, frame_archive, images
from backdrop.io.masks import MaskArchive, Predictions
from backdrop.motion.flow_field import FlowArchive
from tests.handmade_run import make_run
from tests.moving_picture import distance, moving_picture


def _archive(path: Path, count: int = 4) -> list[np.ndarray]:
    frames = moving_picture(count)
    with archives.ArchiveWriter(path) as writer:
        for t, frame in enumerate(frames):
            writer.add(f"images/{t:06d}.jpg", images.encode_jpeg(frame))
        writer.add("masks/000001.png", images.encode_png(np.zeros((64, 96), np.uint8)))
        names = [f"f{t}" for t in range(count)]
        writer.add(
            "frames.csv",
            frame_archive.frames_table(names, [t / 10 for t in range(count)], [t == 1 for t in range(count)]),
        )
    return frames


def test_an_archive_gives_back_what_was_written(tmp_path: Path) -> None:
    frames = _archive(tmp_path / "a.zip")
    archive = frame_archive.FrameArchive(tmp_path / "a.zip")
    assert len(archive) == 4
    assert archive.size == (96, 64)
    assert archive.names == ["f0", "f1", "f2", "f3"]
    assert archive.times == pytest.approx([0, 0.1, 0.2, 0.3])
    for t in (3, 0, 2):
        assert distance(archive.image(t), frames[t]) < 5
    assert archive.mask(0) is None  # no truth ...
    assert archive.mask(1) is not None  # ... is not an empty one
    assert not archive.mask(1).any()
    with pytest.raises(IndexError):
        archive.image(4)
    assert all(entry.compress_type == zipfile.ZIP_STORED for entry in zipfile.ZipFile(archive.path).infolist())


def test_archives_have_the_same_bytes_each_time(tmp_path: Path) -> None:
    _archive(tmp_path / "a.zip")
    _archive(tmp_path / "b.zip")
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


def test_a_failed_write_leaves_the_old_archive_and_nothing_else(tmp_path: Path) -> None:
    _archive(tmp_path / "a.zip")
    before = (tmp_path / "a.zip").read_bytes()

    def fail() -> None:
        with archives.ArchiveWriter(tmp_path / "a.zip") as writer:
            writer.add("half", b"written")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert (tmp_path / "a.zip").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.zip"]


def _parts(folder: Path) -> list[Path]:
    """Two parts of an archive, with two entries and one."""
    parts = [folder / "a.0.zip", folder / "a.2.zip"]
    for part, names in zip(parts, (("one", "two"), ("three",)), strict=True):
        with archives.PartWriter(part, folder / "a.zip") as writer:
            for name in names:
                writer.add(name, name.encode() * 100)
    return parts


def test_parts_joined_are_the_bytes_of_an_archive_written_at_once(tmp_path: Path) -> None:
    with archives.ArchiveWriter(tmp_path / "at_once.zip") as writer:
        for name in ("one", "two", "three", "last"):
            writer.add(name, name.encode() * 100)
    with archives.ArchiveWriter(tmp_path / "a.zip") as writer:
        for part in _parts(tmp_path):
            writer.join(part)
        writer.add("last", b"last" * 100)
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "at_once.zip").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.zip", "at_once.zip"]


@pytest.mark.parametrize("fault", ["missing", "cut", "flipped"])
def test_a_part_that_is_damaged_is_named(fault: str, tmp_path: Path) -> None:
    first, second = _parts(tmp_path)
    data = bytearray(second.read_bytes())
    data[60] ^= 1
    second.write_bytes(data if fault == "flipped" else data[:90])
    if fault == "missing":
        second.unlink()
    with pytest.raises(BackdropError, match=r"a\.2\.zip is missing or damaged"):  # noqa: SIM117, PT012
        with archives.ArchiveWriter(tmp_path / "a.zip") as writer:
            writer.join(first)
            writer.join(second)
    assert not (tmp_path / "a.zip").exists()


def test_a_part_names_its_archive_when_it_cannot_be_written_and_makes_no_folder(tmp_path: Path) -> None:
    with (
        pytest.raises(WriteError, match=r"cannot write .*/a\.zip: No space left"),
        archives.PartWriter(tmp_path / "a.0.zip", tmp_path / "a.zip"),
    ):
        raise OSError(28, "No space left on device")
    with pytest.raises(FileNotFoundError), archives.PartWriter(tmp_path / "gone" / "a.0.zip", tmp_path / "a.zip"):
        pass
    assert not (tmp_path / "gone").exists()


def _checksum(archive: frame_archive.FrameArchive, t: int, out) -> None:
    out.put([int(archive.image(t).sum()) for _ in range(20)])


def test_archives_travel_to_other_processes(tmp_path: Path) -> None:
    _archive(tmp_path / "a.zip")
    archive = frame_archive.FrameArchive(tmp_path / "a.zip")
    expected = [int(archive.image(t).sum()) for t in range(4)]
    assert pickle.loads(pickle.dumps(archive)).image(2).sum() == expected[2]
    context = multiprocessing.get_context("fork")  # an open file is shared after a fork
    queue = context.Queue()
    children = [context.Process(target=_checksum, args=(archive, t, queue)) for t in (1, 3)]
    for child in children:
        child.start()
    assert {int(archive.image(2).sum()) for _ in range(20)} == {expected[2]}
    results = sorted(queue.get(timeout=30) for _ in children)
    for child in children:
        child.join()
    assert results == sorted([expected[t]] * 20 for t in (1, 3))


def test_damaged_archives_are_named_with_the_frame(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    _archive(path)
    data = bytearray(path.read_bytes())
    entry = zipfile.ZipFile(path).getinfo("images/000002.jpg")
    data[entry.header_offset + 300] ^= 0x10
    path.write_bytes(data)
    archive = frame_archive.FrameArchive(path)
    archive.image(1)
    with pytest.raises(BackdropError, match=r"a\.zip: frame 2"):
        archive.image(2)
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(BackdropError, match=r"a\.zip"):
        frame_archive.FrameArchive(path)
    with pytest.raises(BackdropError, match=r"none\.zip does not exist"):
        frame_archive.FrameArchive(tmp_path / "none.zip")
    with archives.ArchiveWriter(path) as writer:
        writer.add("frames.csv", b"frame,name\n0,x\n")
    with pytest.raises(BackdropError, match=r"frames\.csv"):
        frame_archive.FrameArchive(path)


KINDS = {
    "masks": (MaskArchive, lambda archive: archive.gray(1), "run the stage refine"),
    "predictions": (Predictions, lambda archive: archive.soft(1), "run the stage segment"),
    "flow": (FlowArchive, lambda archive: archive.flow(1), "run the stage flow"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_archives_of_each_kind_are_pickled_closed_and_name_their_remedy(kind: str, tmp_path: Path) -> None:
    opener, read, remedy = KINDS[kind]
    make_run(tmp_path, {"one": "test"}, frames=3)
    archive = opener(tmp_path / kind / "one.zip")
    expected = read(archive)
    copy = pickle.loads(pickle.dumps(archive))
    assert len(copy) == len(archive) == 3
    assert np.array_equal(read(copy), expected)
    with pytest.raises(BackdropError, match=f"none.zip does not exist: {remedy}"):
        opener(tmp_path / kind / "none.zip")
    (tmp_path / "no.zip").write_bytes(b"not a zip")
    with pytest.raises(BackdropError, match=f"no.zip is no archive .*: {remedy} again"):
        opener(tmp_path / "no.zip")
