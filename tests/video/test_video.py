"""Decoding and encoding, on real files made by real encoders."""

from __future__ import annotations

import gc
import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from backdrop.errors import BackdropError
from backdrop.io import files
from backdrop.video import decode as video_decode
from backdrop.video import encode
from tests.moving_picture import distance, moving_picture

CONTAINERS = [("a.mp4", "h264"), ("a.mkv", "h264"), ("a.avi", "mpeg4"), ("a.mp4", "mpeg4"), ("a.avi", "mjpeg")]


def noise(count: int) -> list[np.ndarray]:
    """Frames that cost about the same number of bytes each, so that half the bytes are half the frames."""
    rng = np.random.default_rng(3)
    return [rng.integers(0, 255, (64, 96, 3), dtype=np.uint8) for _ in range(count)]


def decode(path: Path) -> tuple[list[tuple[int, float, np.ndarray]], video_decode.Tally]:
    tally = video_decode.Tally()
    return list(video_decode.decode_video(path, tally=tally)), tally


@pytest.mark.parametrize(("name", "codec"), CONTAINERS)
@pytest.mark.parametrize("size", [(96, 64), (97, 63)])
def test_frames_come_back_in_order_at_their_size(tmp_path: Path, name: str, codec: str, size: tuple[int, int]) -> None:
    frames = moving_picture(12, *size)
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
    encode.encode_video(tmp_path / "a.mp4", moving_picture(10), 20.0)
    kept = list(video_decode.decode_video(tmp_path / "a.mp4", every=3))
    assert [index for index, _, _ in kept] == [0, 3, 6, 9]
    assert [time for _, time, _ in kept] == pytest.approx([0, 0.15, 0.3, 0.45])


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_times_of_a_variable_frame_rate_are_the_files_own(tmp_path: Path, name: str) -> None:
    times = np.cumsum([0.0, 0.02, 0.5, 0.04, 0.033, 0.2, 0.02, 0.1]).tolist()
    encode.encode_video(tmp_path / name, moving_picture(8), shown=encode.Presentation([*times, times[-1] + 1]))
    decoded, tally = decode(tmp_path / name)
    assert [time for _, time, _ in decoded] == pytest.approx(times, abs=2e-3)
    assert video_decode.damage(video_decode.probe(tmp_path / name), tally) == ""


@pytest.mark.parametrize("codec", ["h264", "mpeg4"])
@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_rotated_files_come_out_upright(tmp_path: Path, degrees: int, codec: str) -> None:
    frames = moving_picture(4)
    encode.encode_video(tmp_path / "a.mp4", frames, codec=codec, rotation=degrees)
    decoded, _ = decode(tmp_path / "a.mp4")
    info = video_decode.probe(tmp_path / "a.mp4")
    for (_, _, image), frame in zip(decoded, frames, strict=True):
        upright = np.rot90(frame, degrees // 90)
        assert image.shape == upright.shape == (info.height, info.width, 3)
        assert distance(image, upright) < 10 < distance(image, upright[::-1, ::-1])


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_mirrored_files_come_out_upright(tmp_path: Path, degrees: int) -> None:
    frame = moving_picture(1)[0]
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=Fraction(25))
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        stream.set_display_rotation(degrees, hflip=True)
        for _ in range(2):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    upright = np.rot90(frame, degrees // 90)[:, ::-1]
    decoded, _ = decode(tmp_path / "a.mp4")
    assert len(decoded) == 2
    assert all(distance(image, upright) < 12 for *_, image in decoded)


@pytest.mark.parametrize("degrees", [0, 90])
def test_frames_that_are_done_with_leave_the_memory_at_once(tmp_path: Path, degrees: int) -> None:
    """Not when Python's collector of cycles comes: of 4K video that was gigabytes."""
    encode.encode_video(tmp_path / "a.mp4", moving_picture(60), rotation=degrees)
    gc.collect()
    gc.disable()
    try:
        before = _held()
        for _, _, picture in video_decode.decode_lazily(tmp_path / "a.mp4"):
            picture.rgb()
            picture.gray(32)
        assert _held() - before < 5
    finally:
        gc.enable()


def _held() -> int:
    return sum(type(one) is av.VideoFrame for one in gc.get_objects())


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
    encode.encode_video(tmp_path / "a.mp4", moving_picture(8))
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
    encode.encode_video(path, moving_picture(8))
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
    encode.encode_video(tmp_path / name, moving_picture(3))
    assert len(decode(tmp_path / name)[0]) == 3
    assert "\n" not in files.show(tmp_path / name)


def test_encoding_is_atomic_deterministic_and_streams(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    encode.encode_video(path, moving_picture(6))
    before = path.read_bytes()
    encode.encode_video(path, moving_picture(6))
    assert path.read_bytes() == before
    frames = [*moving_picture(3), np.zeros((10, 10, 3), np.uint8)]
    with pytest.raises(BackdropError, match="frame 3"):
        encode.encode_video(path, frames)
    with pytest.raises(BackdropError, match="no frames"):
        encode.encode_video(path, [])
    with pytest.raises(BackdropError, match="codecs are h264"):
        encode.encode_video(path, frames, codec="vp9")
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]
