"""A moving square with exact masks in files of many kinds: codec, container, timing, field order.

Whatever the file, frame k is the k-th one that a decoder gives, at its own time, and mask k lies on it.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from backdrop.io.frame_archive import FrameArchive
from backdrop.video.decode import Tally, damage, decode_video, probe
from tests.video.field_pictures import write_fields
from tests.video.moving_square import (
    COUNT,
    INTERLACED,
    VARIABLE,
    X265,
    Kind,
    extracted,
    overlap,
    square_at,
    square_frames,
    write_masks,
    write_square,
)

NTSC = Fraction(30000, 1001)

B_FRAMES = {"max_b_frames": 2, "gop_size": 9}

KINDS = [
    Kind("h264.mp4", "libx264"),
    Kind("variable.mp4", "libx264", times=VARIABLE),
    Kind("no_b.mp4", "libx264", settings={"max_b_frames": 0}),
    Kind("ntsc.mp4", "libx264", rate=NTSC),
    Kind("open_gop.mp4", "libx264", options={"x264-params": "open-gop=1:keyint=8:bframes=3"}),
    Kind("late.mp4", "libx264", times=[time + 5 for time in VARIABLE]),
    Kind("mbaff.mp4", "libx264", options={"x264-params": "tff=1"}),
    Kind("mbaff.mkv", "libx264", options={"x264-params": "bff=1"}),
    Kind("mbaff.mts", "libx264", options={"x264-params": "tff=1"}, container="mpegts"),
    Kind("h264.avi", "libx264"),
    Kind("h264.flv", "libx264"),
    Kind("h264.ts", "libx264"),
    Kind("variable.ts", "libx264", times=VARIABLE),
    Kind("h264.mkv", "libx264", rate=NTSC),
    Kind("late.mkv", "libx264", times=[time + 5 for time in VARIABLE]),
    Kind("h265.mp4", "libx265", options=X265),
    Kind("h265.ts", "libx265", options=X265),
    Kind("variable.webm", "libvpx", times=VARIABLE),
    Kind("vp9.webm", "libvpx-vp9", rate=Fraction(60000, 1001)),
    Kind("av1.mp4", "libsvtav1", options={"preset": "12"}, times=VARIABLE),
    Kind("mpeg4.avi", "mpeg4", settings=B_FRAMES),
    Kind("mpeg4.mkv", "mpeg4", settings=B_FRAMES, times=VARIABLE),
    Kind("mpeg2.mpg", "mpeg2video", settings=B_FRAMES),
    Kind("interlaced.ts", "mpeg2video", settings=B_FRAMES | {"flags": INTERLACED}),
    Kind("interlaced.mkv", "mpeg2video", settings=B_FRAMES | {"flags": INTERLACED}),
    Kind("wmv.wmv", "wmv2", container="asf"),
    Kind("mjpeg.avi", "mjpeg", pixels="yuvj420p", times=VARIABLE),
    Kind("prores.mov", "prores_ks", pixels="yuv422p10le"),
    Kind("lossless.mkv", "ffv1"),
    Kind("raw.avi", "rawvideo"),
]


def check(archive: FrameArchive, times: list[float]) -> None:
    """Frame k has number k, its own time and the square that mask k has."""
    assert archive.names == [f"{t:06d}" for t in range(COUNT)]
    assert archive.times == pytest.approx([time - times[0] for time in times], abs=1e-3)
    for t in range(COUNT):
        assert archive.has_mask(t)
        assert overlap(archive.image(t), archive.mask(t) > 0) > 0.9, f"frame {t}"


@pytest.fixture(scope="module")
def masks(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    return write_masks(tmp_path_factory.mktemp("masks"))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_masks_lie_on_their_frames(kind: Kind, masks: dict[int, Path], tmp_path: Path) -> None:
    path = write_square(tmp_path, kind)
    for threads in (1, 3):
        row, archive = extracted(path, masks, tmp_path / str(threads), threads)
        assert (row["status"], row["reason"]) == ("ok", "")
        pauses = path.suffix == ".avi" and kind.times is not None  # AVI counts them as frames
        assert row["declared_frames"] in (COUNT, None) or pauses
        check(archive, kind.seconds())
        rate = (COUNT - 1) / (VARIABLE[-1] - VARIABLE[0]) if kind.times is not None else float(kind.rate)
        assert row["fps"] == pytest.approx(rate, rel=0.02)
    assert [index for index, _, _ in decode_video(path, every=3)] == list(range(0, COUNT, 3))


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("suffix", ["mts", "mkv", "mp4", "mov"])
def test_two_fields_are_one_frame(suffix: str, together: bool, masks: dict[int, Path], tmp_path: Path) -> None:
    path = write_fields(tmp_path / f"fields.{suffix}", together)
    for threads in (1, 3):
        row, archive = extracted(path, masks, tmp_path / str(threads), threads)
        assert (row["status"], row["reason"], row["fps"]) == ("ok", "", 25)
        assert row["declared_frames"] in (COUNT, None)
        check(archive, [t / 25 for t in range(COUNT)])


def write_hidden(path: Path) -> Path:
    """VP8 in which each fourth frame comes before itself as a picture that is not shown, as two-pass encoders do it."""
    shown = [t for t in range(COUNT) for _ in range(1 + (t % 4 == 3))]
    coded = path.with_suffix(".mkv")
    with av.open(str(coded), "w") as container:
        stream = container.add_stream("libvpx", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.options = {"auto-alt-ref": "0", "lag-in-frames": "0", "crf": "4", "b": "2000000"}
        for t in shown:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(square_frames()[t], format="rgb24")))
        container.mux(stream.encode())
    with av.open(str(coded)) as source, av.open(str(path), "w") as container:
        output = container.add_stream_from_template(source.streams.video[0])
        packets = [packet for packet in source.demux(video=0) if packet.size]
        for at, (t, packet) in enumerate(zip(shown, packets, strict=True)):
            data = bytearray(bytes(packet))
            data[0] &= 0xFF if shown.index(t) != at or t % 4 != 3 else ~0x10  # the bit "to be shown"
            copy = av.Packet(bytes(data))
            copy.stream, copy.time_base, copy.pts, copy.dts = output, Fraction(1, 25), t, t
            copy.is_keyframe, copy.duration = packet.is_keyframe, 1
            container.mux(copy)
    return path


def test_a_hidden_picture_takes_no_number(masks: dict[int, Path], tmp_path: Path) -> None:
    path = write_hidden(tmp_path / "hidden.webm")
    with av.open(str(path)) as container:
        assert sum(1 for packet in container.demux(video=0) if packet.size) == COUNT + 5
    for threads in (1, 3):
        row, archive = extracted(path, masks, tmp_path / str(threads), threads)
        assert (row["status"], row["masks"]) == ("ok", COUNT)
        check(archive, [t / 25 for t in range(COUNT)])


def edit(path: Path, entries: list[tuple[int, int]]) -> None:
    """Give an MP4 another edit list: milliseconds, and the frame that is shown first (-1: nothing)."""
    data = path.read_bytes()
    at = data.index(b"elst") - 4
    size, start = struct.unpack(">I", data[at : at + 4])[0], struct.unpack(">i", data[at + 20 : at + 24])[0]
    frame = int(1 / (25 * probe(path).tick))
    rows = [struct.pack(">IiI", length, -1 if t < 0 else start + t * frame, 1 << 16) for length, t in entries]
    made = b"elst" + bytes(4) + struct.pack(">I", len(rows)) + b"".join(rows)
    changed = bytearray(data[:at] + struct.pack(">I", len(made) + 4) + made + data[at + size :])
    for name in (b"moov", b"trak", b"edts"):  # they hold it
        place = data.index(name) - 4
        held = struct.unpack(">I", data[place : place + 4])[0] + len(made) + 4 - size
        changed[place : place + 4] = struct.pack(">I", held)
    path.write_bytes(changed)


@pytest.mark.parametrize("codec", ["libx264", "libx265", "mpeg4", "libsvtav1"])
@pytest.mark.parametrize(
    ("entries", "shown", "late"),
    [
        ([(800, 0)], range(COUNT), 0.0),
        ([(400, 7)], range(7, 17), 0.0),
        ([(400, 0)], range(10), 0.0),
        ([(1000, -1), (800, 0)], range(COUNT), 1.0),
        ([(480, -1), (280, 13)], range(13, COUNT), 0.48),
        ([(200, 3), (200, 3)], [*range(3, 8), *range(3, 8)], 0.0),
    ],
)
def test_an_edit_list_says_which_frames_there_are(
    codec: str, entries: list[tuple[int, int]], shown: Sequence[int], late: float, tmp_path: Path
) -> None:
    options = {"libx265": {"x265-params": "log-level=none"}, "libsvtav1": {"preset": "12"}}.get(codec, {})
    settings = {"gop_size": 6} | ({"max_b_frames": 2} if codec == "mpeg4" else {})
    path = write_square(tmp_path, Kind("a.mp4", codec, options=options, settings=settings))
    edit(path, entries)
    tally = Tally()
    decoded = list(decode_video(path, tally=tally))
    info = probe(path)
    assert damage(info, tally) == ""
    assert [index for index, _, _ in decoded] == list(range(len(shown)))
    assert [time for _, time, _ in decoded] == pytest.approx([t / 25 for t in range(len(shown))], abs=1e-3)
    assert all(overlap(image, square_at(t)) > 0.9 for (_, _, image), t in zip(decoded, shown, strict=True))
    assert info.start_s == pytest.approx(late, abs=1e-3)


def test_the_default_track_is_the_one_that_is_read(tmp_path: Path) -> None:
    """Not the first one."""
    path = tmp_path / "two.mkv"
    default = av.stream.Disposition.default
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("libx264", rate=25) for _ in range(2)]
        for stream in streams:
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        streams[0].disposition, streams[1].disposition = av.stream.Disposition(0), default
        for t, image in enumerate(square_frames()):
            for stream, picture in zip(streams, (np.zeros_like(image), image), strict=True):
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                frame.pts = t
                container.mux(stream.encode(frame))
        for stream in streams:
            container.mux(stream.encode())
    for index, _, image in decode_video(path):
        assert overlap(image, square_at(index)) > 0.9
    assert probe(path).codec == "h264"


def test_a_cover_picture_is_no_track(tmp_path: Path) -> None:
    path = tmp_path / "cover.mp4"
    with av.open(str(path), "w") as container:
        cover = container.add_stream("png", rate=1)
        cover.width, cover.height, cover.pix_fmt = 64, 48, "rgb24"
        cover.disposition = av.stream.Disposition.attached_pic
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.mux(cover.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")))
        for image in square_frames():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    with av.open(str(path)) as container:
        assert len(container.streams.video) == 2
    assert (probe(path).codec, len(list(decode_video(path)))) == ("h264", COUNT)


def test_text_of_no_encoding_is_no_reason_to_refuse_a_video(tmp_path: Path) -> None:
    path = write_square(tmp_path, Kind("a.mkv", "libx264"))
    data = path.read_bytes()
    at = data.index(b"ENCODER") + 10  # the value of a tag
    path.write_bytes(data[:at] + b"\xff\xfe" + data[at + 2 :])
    with pytest.raises(UnicodeDecodeError):
        av.open(str(path))
    assert len(list(decode_video(path))) == COUNT


def test_joined_recordings_are_one_video(tmp_path: Path) -> None:
    """Their time stamps begin anew at the joint."""
    data = write_square(tmp_path, Kind("one.mpg", "mpeg2video", settings=B_FRAMES)).read_bytes()
    (tmp_path / "two.mpg").write_bytes(data + data)
    decoded = list(decode_video(tmp_path / "two.mpg"))
    assert [index for index, _, _ in decoded] == list(range(2 * COUNT))
    assert [time for _, time, _ in decoded] == pytest.approx([t / 25 for t in range(2 * COUNT)], abs=1e-3)
    assert all(overlap(image, square_at(index % COUNT)) > 0.9 for index, _, image in decoded)


def test_a_recording_that_begins_in_the_middle_begins_with_its_first_whole_picture(tmp_path: Path) -> None:
    kind = Kind("whole.ts", "libx264", options={"x264-params": "keyint=8:bframes=2:scenecut=0"})
    data = write_square(tmp_path, kind).read_bytes()
    (tmp_path / "cut.ts").write_bytes(data[len(data) // 3 // 188 * 188 :])
    decoded = list(decode_video(tmp_path / "cut.ts"))
    assert [index for index, _, _ in decoded] == list(range(len(decoded)))
    assert len(decoded) in (COUNT - 8, COUNT - 16)
    assert all(overlap(image, square_at(COUNT - len(decoded) + index)) > 0.9 for index, _, image in decoded)


# --------------------------------------------------------------------------------------------- given cases


def test_the_given_video_with_hidden_pictures(cases: Path, tmp_path: Path) -> None:
    masks = {int(path.stem): path for path in (cases / "square_masks").glob("*.png")}
    row, archive = extracted(cases / "square.webm", masks, tmp_path)
    assert (row["status"], row["reason"], row["frames"], row["masks"]) == ("ok", "", 75, 75)
    assert archive.names == [f"{t:06d}" for t in range(75)]
    for t in range(75):
        red, mask = archive.image(t).astype(int), archive.mask(t) > 0
        seen = red[..., 0] - red[..., 2] > 100
        assert (seen & mask).sum() / (seen | mask).sum() > 0.9
    assert [index for index, _, _ in decode_video(cases / "square.webm", every=2)] == list(range(0, 75, 2))


def test_the_given_browser_recording_keeps_its_times(cases: Path) -> None:
    with av.open(str(cases / "webcam.webm")) as container:
        stamps = [packet.pts for packet in container.demux(video=0) if packet.size]
    times = [time for _, time, _ in decode_video(cases / "webcam.webm")]
    assert times == pytest.approx([(stamp - stamps[0]) / 1000 for stamp in stamps], abs=1e-6)
