"""Damaged video: what can be read keeps its numbers and times, and what is missing is said."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
import pytest

from backdrop.errors import BackdropError
from backdrop.video.decode import Tally, damage, decode_video, end_of_video, probe
from tests.video.field_pictures import write_fields
from tests.video.moving_square import COUNT, VARIABLE, Kind, overlap, square_at, write_square

SHORT_GOP = {"gop_size": 6}


def packets(path: Path) -> list[tuple[int, bytes]]:
    """Time stamp and content of each, in the order of the file."""
    with av.open(str(path)) as container:
        return [(packet.pts, bytes(packet)) for packet in container.demux(video=0) if packet.size]


def spoil(path: Path, which: Sequence[int], how: str) -> None:
    """Overwrite packets: with zeros, or their second half with zeros, or some bits."""
    data, found = bytearray(path.read_bytes()), packets(path)
    for index in which:
        content = found[index][1]
        at, size = data.find(content), len(content)
        assert at > 0
        if how == "flip":
            for spot in range(at + min(6, size // 4), at + size, 7):
                data[spot] ^= 0x5A
        else:
            start = at if how == "zero" else at + size // 2
            data[start : at + size] = bytes(at + size - start)
    path.write_bytes(data)


def decoded(path: Path, threads: int = 1) -> tuple[list[int], list[float], list[np.ndarray], str]:
    tally = Tally()
    found = list(decode_video(path, threads=threads, tally=tally))
    numbers, times, images = ([row[i] for row in found] for i in range(3))
    return numbers, times, images, damage(probe(path), tally)


def make(folder: Path, name: str) -> Path:
    codecs = {"h264": "libx264", "h265": "libx265", "vp8": "libvpx", "vp9": "libvpx-vp9", "av1": "libsvtav1"}
    if name.startswith("fields"):
        return write_fields(folder / name)
    stem = name.split(".")[0]
    pixels = "yuvj420p" if stem == "mjpeg" else "yuv420p"
    options = {"h265": {"x265-params": "log-level=none"}, "av1": {"preset": "12"}}.get(stem, {})
    return write_square(folder, Kind(name, codecs.get(stem, stem), pixels, options=options, settings=SHORT_GOP))


FILES = ["h264.mp4", "h264.mkv", "h265.mp4", "vp8.webm", "vp9.webm", "av1.mp4", "mpeg4.mp4", "mjpeg.avi", "ffv1.mkv"]


@pytest.mark.parametrize("name", [*FILES, "fields.mp4", "fields.mkv"])
def test_what_is_left_keeps_its_numbers(name: str, tmp_path: Path) -> None:
    """Numbers agree with times, so a lost frame leaves a gap; threads change nothing."""
    path = make(tmp_path, name)
    whole = path.read_bytes()
    for which, how in itertools.product([(5,), (9, 10), (COUNT - 1,)], ["zero", "half", "flip"]):
        path.write_bytes(whole)
        spoil(path, which, how)
        numbers, times, _, said = decoded(path)
        assert COUNT - 8 <= len(numbers) <= COUNT
        assert numbers == [round(time * 25) for time in times], (which, how)
        assert said or numbers == list(range(COUNT)), (which, how)
        again, _, _, also = decoded(path, threads=3)
        assert (again, also) == (numbers, said), (which, how)


@pytest.mark.parametrize("name", ["h265.mp4", "vp9.webm", "av1.mp4", "mjpeg.avi"])
def test_frames_lost_at_the_beginning_leave_a_gap(name: str, tmp_path: Path) -> None:
    path = make(tmp_path, name)
    spoil(path, (0,), "zero")
    numbers, times, images, said = decoded(path)
    assert numbers[0] > 0
    assert numbers == [round(time * 25) for time in times]
    assert "corrupt" in said
    assert overlap(images[-1], square_at(numbers[-1])) > 0.9


@pytest.mark.parametrize("name", ["fields.mp4", "fields.mov"])
def test_a_cut_file_of_fields_counts_frames(name: str, tmp_path: Path) -> None:
    """Its header declares packets, two of them a frame."""
    path = make(tmp_path, name)
    moved = tmp_path / f"fast{path.suffix}"
    with av.open(str(path)) as source, av.open(str(moved), "w", options={"movflags": "+faststart"}) as container:
        output = container.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = output
                container.mux(packet)
    data = moved.read_bytes()
    moved.write_bytes(data[: len(data) * 6 // 10])
    numbers, _, _, said = decoded(moved)
    assert f"{len(numbers)} of {COUNT} declared frames could be decoded" in said


def test_the_given_cut_file_says_how_much_is_missing(cases: Path) -> None:
    for threads in (1, 3):
        numbers, _, _, said = decoded(cases / "trunc.mp4", threads)
        assert numbers == list(range(13))
        assert "13 of 30 declared frames" in said


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.webm"])
def test_a_variable_rate_is_no_damage_and_ends_with_its_last_frame(name: str, tmp_path: Path) -> None:
    codec = "libvpx" if name == "a.webm" else "libx264"
    path = write_square(tmp_path, Kind(name, codec, times=VARIABLE))
    tally = Tally()
    list(decode_video(path, tally=tally))
    info = probe(path)
    assert damage(info, tally) == ""
    assert tally.fps(info.fps) == pytest.approx((COUNT - 1) / VARIABLE[-1], rel=1e-3)
    assert VARIABLE[-1] < end_of_video(info, tally) < VARIABLE[-1] + 0.3


# ------------------------------------------------------------------------------- cut off between B-frames


B_FRAMES = {
    "libx264": {"x264-params": "bframes=3:b-adapt=0:keyint=12:scenecut=0"},
    "libx265": {"x265-params": "log-level=none:bframes=3:b-adapt=0:keyint=12"},
}

SUFFIXES = [("mkv", None), ("flv", None), ("ts", "mpegts"), ("m2ts", "mpegts")]


@pytest.mark.parametrize("codec", B_FRAMES)
@pytest.mark.parametrize(("suffix", "container"), SUFFIXES)
def test_a_file_that_is_cut_off_lacks_pictures_that_are_shown_before_its_last_one(
    suffix: str, container: str | None, codec: str, tmp_path: Path
) -> None:
    if (suffix, codec) == ("flv", "libx265"):
        pytest.skip("FLV holds no H.265")
    kind = Kind(f"whole.{suffix}", codec, options=B_FRAMES[codec], container=container)
    path = write_square(tmp_path, kind)
    data, cut, counts = path.read_bytes(), tmp_path / f"cut.{suffix}", set()
    assert decoded(path)[3] == ""
    for share in np.linspace(0.5, 0.95, 12):
        cut.write_bytes(data[: int(len(data) * share) // 188 * 188 + 100])
        for threads in (1, 3):
            try:
                numbers, _, images, said = decoded(cut, threads)
            except BackdropError:  # the cut is in the first picture
                continue
            counts.add(len(numbers))
            assert said
            if len(numbers) > 3:  # of fewer, nobody knows the rate
                assert all(overlap(image, square_at(t)) > 0.9 for t, image in zip(numbers, images, strict=True))
    assert max(counts) > 8


@pytest.mark.parametrize("suffix", ["mkv", "mp4", "flv", "ts"])
def test_a_pause_before_the_last_frame_is_no_lost_frame(suffix: str, tmp_path: Path) -> None:
    times = [*(t / 25 for t in range(COUNT - 1)), 3.0]
    path = write_square(tmp_path, Kind(f"a.{suffix}", "libx264", options=B_FRAMES["libx264"], times=times))
    for threads in (1, 3):
        numbers, found, _, said = decoded(path, threads)
        assert (numbers, said) == (list(range(COUNT)), "")
        assert found == pytest.approx(times, abs=1e-3)


def test_what_lies_behind_a_whole_transport_stream_is_no_damage(tmp_path: Path) -> None:
    path = write_square(tmp_path, Kind("a.ts", "libx264"))
    path.write_bytes(path.read_bytes() + bytes(100))
    assert decoded(path)[3] == ""
