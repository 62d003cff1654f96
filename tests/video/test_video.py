"""Decoding, encoding and archives, on real files made by real encoders."""

from __future__ import annotations

import io
import multiprocessing
import pickle
import struct
import zipfile
import zlib
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from PIL import Image

from backdrop.errors import BackdropError, WriteError
from backdrop.io import archives, files, frame_archive, images
from backdrop.video import decode as video_decode
from backdrop.video import encode

CONTAINERS = [("a.mp4", "h264"), ("a.mkv", "h264"), ("a.avi", "mpeg4"), ("a.mp4", "mpeg4"), ("a.avi", "mjpeg")]


def clip(count: int, width: int = 96, height: int = 64) -> list[np.ndarray]:
    """A smooth picture without symmetry that moves two pixels a frame."""
    seed = np.random.default_rng(7).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    picture = cv2.resize(seed, (width, height), interpolation=cv2.INTER_CUBIC)
    return [np.roll(picture, 2 * t, axis=1) for t in range(count)]


def noise(count: int) -> list[np.ndarray]:
    """Frames that cost about the same number of bytes each, so that half the bytes are half the frames."""
    rng = np.random.default_rng(3)
    return [rng.integers(0, 255, (64, 96, 3), dtype=np.uint8) for _ in range(count)]


def distance(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a.astype(float) - b.astype(float)).mean())


def decode(path: Path) -> tuple[list[tuple[int, float, np.ndarray]], video_decode.Tally]:
    tally = video_decode.Tally()
    return list(video_decode.decode_video(path, tally=tally)), tally


# ------------------------------------------------------------------------------------------ video files


@pytest.mark.parametrize(("name", "codec"), CONTAINERS)
@pytest.mark.parametrize("size", [(96, 64), (97, 63)])
def test_frames_come_back_in_order_at_their_size(tmp_path: Path, name: str, codec: str, size: tuple[int, int]) -> None:
    frames = clip(12, *size)
    encode.encode_video(tmp_path / name, iter(frames), 25.0, codec, quality=95)
    decoded, tally = decode(tmp_path / name)
    info = video_decode.probe(tmp_path / name)
    assert [index for index, _, _ in decoded] == list(range(12))
    assert [time for _, time, _ in decoded] == pytest.approx([t / 25 for t in range(12)], abs=1e-3)
    for (_, _, image), frame in zip(decoded, frames, strict=True):
        assert image.shape == frame.shape
        assert distance(image, frame) < 10 < distance(image, np.roll(frame, 20, axis=1))
    assert (info.width, info.height) == size
    assert info.fps == pytest.approx(25)
    assert info.declared_frames in (12, None)
    assert video_decode.damage(info, tally) == ""


def test_every_nth_frame_keeps_its_number_and_time(tmp_path: Path) -> None:
    encode.encode_video(tmp_path / "a.mp4", clip(10), 20.0)
    kept = list(video_decode.decode_video(tmp_path / "a.mp4", every=3))
    assert [index for index, _, _ in kept] == [0, 3, 6, 9]
    assert [time for _, time, _ in kept] == pytest.approx([0, 0.15, 0.3, 0.45])


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_times_of_a_variable_frame_rate_are_the_files_own(tmp_path: Path, name: str) -> None:
    times = np.cumsum([0.0, 0.02, 0.5, 0.04, 0.033, 0.2, 0.02, 0.1]).tolist()
    encode.encode_video(tmp_path / name, clip(8), times=times)
    decoded, tally = decode(tmp_path / name)
    assert [time for _, time, _ in decoded] == pytest.approx(times, abs=2e-3)
    assert video_decode.damage(video_decode.probe(tmp_path / name), tally) == ""


@pytest.mark.parametrize("codec", ["h264", "mpeg4"])
@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_rotated_files_come_out_upright(tmp_path: Path, degrees: int, codec: str) -> None:
    frames = clip(4)
    encode.encode_video(tmp_path / "a.mp4", frames, codec=codec, rotation=degrees)
    decoded, _ = decode(tmp_path / "a.mp4")
    info = video_decode.probe(tmp_path / "a.mp4")
    for (_, _, image), frame in zip(decoded, frames, strict=True):
        upright = np.rot90(frame, degrees // 90)
        assert image.shape == upright.shape == (info.height, info.width, 3)
        assert distance(image, upright) < 10 < distance(image, upright[::-1, ::-1])


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_mirrored_files_come_out_upright(tmp_path: Path, degrees: int) -> None:
    frame = clip(1)[0]
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=Fraction(25))
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        stream.set_display_rotation(degrees, hflip=True)
        for _ in range(2):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    upright = np.rot90(frame, degrees // 90)[:, ::-1]
    assert distance(decode(tmp_path / "a.mp4")[0][0][2], upright) < 12


@pytest.mark.parametrize(("name", "codec"), CONTAINERS)
@pytest.mark.parametrize("share", [0.5, 0.75, 0.9])
def test_a_truncated_file_gives_its_frames_and_is_damaged(tmp_path: Path, name: str, codec: str, share: float) -> None:
    complete, cut = tmp_path / name, tmp_path / f"cut_{name}"
    encode.encode_video(complete, noise(16), 25.0, codec, quality=50)
    data = complete.read_bytes()
    cut.write_bytes(data[: int(share * len(data))])
    expected, _ = decode(complete)
    decoded, tally = decode(cut)
    assert 0 < len(decoded) < 16
    for index, time, image in decoded:  # a frame lost among later ones leaves a gap in the numbers
        assert time == pytest.approx(expected[index][1])
        assert np.array_equal(image, expected[index][2])
    reason = video_decode.damage(video_decode.probe(cut), tally)
    assert "declared" in reason
    if video_decode.probe(cut).declared_frames:
        assert f"{len(decoded)} of 16" in reason


def test_a_frame_damaged_in_the_middle_leaves_a_gap(tmp_path: Path) -> None:
    path = tmp_path / "a.avi"
    encode.encode_video(path, noise(8), 25.0, "mjpeg", quality=50)
    expected, _ = decode(path)
    data = bytearray(path.read_bytes())
    starts = [i for i in range(len(data)) if data[i : i + 3] == b"\xff\xd8\xff"]
    data[starts[3] : starts[4] - 8] = bytes(starts[4] - 8 - starts[3])
    path.write_bytes(data)
    decoded, tally = decode(path)
    assert [index for index, _, _ in decoded] == [0, 1, 2, 4, 5, 6, 7]
    assert all(np.array_equal(image, expected[index][2]) for index, _, image in decoded)
    assert "corrupt" in video_decode.damage(video_decode.probe(path), tally)


def test_a_clip_trimmed_by_an_edit_list_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    encode.encode_video(path, noise(40), 20.0)
    data = bytearray(path.read_bytes())
    at = data.find(b"elst") + 12  # version, count, then: duration in milliseconds, start in the track's units
    duration, start = struct.unpack(">Ii", data[at : at + 8])
    assert duration == 2000
    data[at : at + 8] = struct.pack(">Ii", 1000, start + 7 * 512)
    path.write_bytes(data)
    decoded, tally = decode(path)
    assert len(decoded) == 20
    assert video_decode.probe(path).declared_frames == 40
    assert video_decode.damage(video_decode.probe(path), tally) == ""


def test_a_limit_is_no_damage(tmp_path: Path) -> None:
    encode.encode_video(tmp_path / "a.mp4", clip(8))
    tally = video_decode.Tally()
    next(video_decode.decode_video(tmp_path / "a.mp4", tally=tally))
    assert video_decode.damage(video_decode.probe(tmp_path / "a.mp4"), tally) == ""


def _sound_only(path: Path) -> None:
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _no_index(path: Path) -> None:
    encode.encode_video(path, clip(8))
    data = path.read_bytes()
    path.write_bytes(data[: data.find(b"moov") - 4] + data[data.find(b"mdat") - 4 :])


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda path: None, "does not exist"),
        (lambda path: path.write_bytes(b""), "empty"),
        (lambda path: path.write_text("a letter, not a film\n" * 99), "no readable video"),
        (lambda path: path.write_bytes(np.random.default_rng(0).bytes(9999)), "no readable video"),
        (_no_index, "no readable video"),
        (_sound_only, "no video track"),
        (lambda path: path.mkdir(), "no file"),
    ],
)
def test_what_is_no_video_is_one_error_that_names_it(tmp_path: Path, make, says: str) -> None:
    path = tmp_path / "holiday.mp4"
    make(path)
    for read in (video_decode.probe, lambda p: list(video_decode.decode_video(p))):
        with pytest.raises(BackdropError, match=says) as fault:
            read(path)
        assert "holiday.mp4" in str(fault.value)
        assert "\n" not in str(fault.value)


@pytest.mark.parametrize("name", ["-i.mp4", "a b'c\"d.mp4", "100%d.mp4", "http:x.mp4", "übung 視頻.mp4", "a\nb.mp4"])
def test_any_file_name_is_only_a_name(tmp_path: Path, name: str) -> None:
    encode.encode_video(tmp_path / name, clip(3))
    assert len(decode(tmp_path / name)[0]) == 3
    assert "\n" not in files.show(tmp_path / name)


def test_encoding_is_atomic_deterministic_and_streams(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    encode.encode_video(path, clip(6))
    before = path.read_bytes()
    encode.encode_video(path, clip(6))
    assert path.read_bytes() == before
    frames = [*clip(3), np.zeros((10, 10, 3), np.uint8)]
    with pytest.raises(BackdropError, match="frame 3"):
        encode.encode_video(path, frames)
    with pytest.raises(BackdropError, match="no frames"):
        encode.encode_video(path, [])
    with pytest.raises(BackdropError, match="codecs are h264"):
        encode.encode_video(path, frames, codec="vp9")
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]


# ---------------------------------------------------------------------------------------------- images


def _png(image: Image.Image, kind: str = "PNG", **rest) -> bytes:
    data = io.BytesIO()
    image.save(data, kind, **rest)
    return data.getvalue()


def test_images_of_any_mode_become_rgb() -> None:
    gray = np.arange(0, 256, dtype=np.uint8).reshape(16, 16)
    rgb = np.dstack([gray, gray, gray])
    assert np.array_equal(images.decode_image(_png(Image.fromarray(gray))), rgb)
    assert np.array_equal(images.decode_image(_png(Image.fromarray(gray.astype(np.uint16) * 257))), rgb)
    alpha = Image.fromarray(np.dstack([rgb, np.zeros_like(gray)]), "RGBA")
    assert np.array_equal(images.decode_image(_png(alpha)), rgb)
    palette = Image.fromarray(gray, "P")
    palette.putpalette([v for i in range(256) for v in (i, i, i)])
    assert np.array_equal(images.decode_image(_png(palette)), rgb)
    with pytest.raises(BackdropError, match="floating-point"):
        images.decode_image(_png(Image.fromarray(gray.astype(np.float32)), "TIFF"))


@pytest.mark.parametrize(("orientation", "turns"), [(1, 0), (3, 2), (6, 3), (8, 1)])
def test_exif_orientation_is_applied(orientation: int, turns: int) -> None:
    frame = clip(1)[0]
    exif = Image.Exif()
    exif[274] = orientation
    decoded = images.decode_image(_png(Image.fromarray(frame), "JPEG", exif=exif, quality=95))
    assert distance(decoded, np.rot90(frame, turns)) < 6


def test_damaged_and_huge_images_are_errors_by_name(tmp_path: Path) -> None:
    jpeg = images.encode_jpeg(clip(1)[0])
    bad = {"cut.jpg": jpeg[: len(jpeg) // 2], "empty.jpg": b"", "text.jpg": b"hello", "flip.jpg": b"\x00" + jpeg[1:]}
    header = b"IHDR" + struct.pack(">IIBBBBB", 40000, 40000, 8, 2, 0, 0, 0)
    bad["bomb.png"] = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    for name, data in bad.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(BackdropError, match=name):
            images.decode_image(tmp_path / name)
    with pytest.raises(BackdropError, match=r"gone\.png does not exist"):
        images.decode_image(tmp_path / "gone.png")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3)])
def test_png_is_lossless(dtype: type, shape: tuple[int, ...]) -> None:
    image = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape).astype(dtype)
    back = cv2.imdecode(np.frombuffer(images.encode_png(image), np.uint8), cv2.IMREAD_UNCHANGED)
    assert back.dtype == dtype
    assert np.array_equal(back[..., ::-1] if image.ndim == 3 else back, image)


def test_shrinking_averages_areas() -> None:
    board = np.indices((64, 64)).sum(axis=0) % 2 * 255
    small = images.resize(np.dstack([board] * 3).astype(np.uint8), (32, 32))
    assert small.shape == (32, 32, 3)
    assert np.abs(small.astype(int) - 127).max() <= 1
    assert images.resize(small, None) is small


# -------------------------------------------------------------------------------------------- archives


def _archive(path: Path, count: int = 4) -> list[np.ndarray]:
    frames = clip(count)
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
    with archives.ArchiveWriter(tmp_path / "whole.zip") as writer:
        for name in ("one", "two", "three", "last"):
            writer.add(name, name.encode() * 100)
    with archives.ArchiveWriter(tmp_path / "a.zip") as writer:
        for part in _parts(tmp_path):
            writer.join(part)
        writer.add("last", b"last" * 100)
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "whole.zip").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.zip", "whole.zip"]


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
