"""Video that is written anew: its times, colors, shape of pixels and sound are those of the source."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from backdrop.errors import BackdropError
from backdrop.video.color import ColorTags
from backdrop.video.decode import Tally, decode_video, end_of_video, probe
from backdrop.video.encode import Presentation, encode_video
from backdrop.video.redraw import redraw_video
from tests.moving_picture import moving_picture
from tests.video.moving_square import COUNT, HEIGHT, VARIABLE, WIDTH, Kind, square_frames, write_square

COLORS = [(200, 40, 40), (30, 180, 60), (40, 60, 210), (128, 128, 128), (250, 250, 250), (8, 8, 8), (220, 200, 30)]
"""One column of 16 pixels each."""

WEIGHTS = {1: (0.2126, 0.0722), 5: (0.299, 0.114), 6: (0.299, 0.114), 7: (0.212, 0.087), 9: (0.2627, 0.0593)}
"""Of red and blue in the luma, by the number of the matrix."""

DEPTHS = {"yuv420p": 8, "yuv420p10le": 10, "yuvj420p": 8}


def again(path: Path, every: int = 1) -> tuple[Path, str]:
    """The video written anew with nothing drawn in, and why sound is missing."""
    tally = Tally()
    frames = list(decode_video(path, every, tally=tally))
    info = probe(path)
    times = [*(time for _, time, _ in frames), end_of_video(info, tally)]
    new = path.with_name("new.mp4")
    return new, redraw_video(new, [image for _, _, image in frames], times, info)


def stamps(path: Path) -> list[float]:
    """Seconds of each frame by the file, and the end of the last one."""
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    ends = [packet.pts + packet.duration for packet in packets]
    return [float(t * packets[0].time_base) for t in [*sorted(packet.pts for packet in packets), max(ends)]]


# ------------------------------------------------------------------------------------------------- times


@pytest.mark.parametrize("tick", [Fraction(1, 1000), Fraction(1, 90000), Fraction(1, 15360)])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_times_and_the_length_of_a_still_last_frame_are_kept(suffix: str, tick: Fraction, tmp_path: Path) -> None:
    path, times = tmp_path / f"a{suffix}", [*VARIABLE, VARIABLE[-1] + 3]
    encode_video(path, square_frames(), 4.7, shown=Presentation(times, tick))
    kept = stamps(path)
    assert kept[:-1] == pytest.approx(VARIABLE, abs=6e-4)
    assert suffix == ".mkv" or kept[-1] == pytest.approx(times[-1], abs=6e-4)
    tally = Tally()
    assert [time for _, time, _ in decode_video(path, tally=tally)] == pytest.approx(VARIABLE, abs=6e-4)
    assert end_of_video(probe(path), tally) == pytest.approx(times[-1], abs=6e-4)


def test_two_frames_never_have_one_time(tmp_path: Path) -> None:
    encode_video(tmp_path / "a.mp4", square_frames(4), 25, shown=Presentation([0, 0.0002, 0.0003, 0.1, 0.2]))
    assert stamps(tmp_path / "a.mp4") == pytest.approx([0, 0.001, 0.002, 0.1, 0.2])


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("name", ["a.webm", "a.mkv", "a.mp4", "a.avi"])
def test_frames_are_shown_when_they_were(name: str, every: int, tmp_path: Path) -> None:
    codec = {"a.webm": "libvpx", "a.avi": "mpeg4"}.get(name, "libx264")
    source = write_square(tmp_path, Kind(name, codec, times=VARIABLE))
    new, lost = again(source, every)
    assert stamps(new)[:-1] == pytest.approx(VARIABLE[::every], abs=1e-3)
    assert stamps(new)[-1] > VARIABLE[-1]
    assert lost == ""


def test_the_given_browser_recording_keeps_its_times_and_its_length(cases: Path, tmp_path: Path) -> None:
    (tmp_path / "webcam.webm").write_bytes((cases / "webcam.webm").read_bytes())
    new, _ = again(tmp_path / "webcam.webm")
    expected = [time for _, time, _ in decode_video(cases / "webcam.webm")]
    assert stamps(new)[:-1] == pytest.approx(expected, abs=1e-3)
    assert stamps(new)[-1] == pytest.approx(2.6, abs=0.05)


# ------------------------------------------------------------------------------------------------ colors


def planes(matrix: int, full: bool, bits: int) -> list[np.ndarray]:
    """Luma and chroma (4:2:0) of the columns in `COLORS`, by the definition of the matrix."""
    red_weight, blue_weight = WEIGHTS[matrix]
    row = np.repeat(np.array(COLORS, float) / 255, 16, axis=0)
    luma = row @ [red_weight, 1 - red_weight - blue_weight, blue_weight]
    blue, red = (row[:, 2] - luma) / (2 - 2 * blue_weight), (row[:, 0] - luma) / (2 - 2 * red_weight)
    unit = 2 ** (bits - 8)
    low, luma_range, chroma_range = (0, 2**bits - 1, 2**bits - 1) if full else (16 * unit, 219 * unit, 224 * unit)
    values = [low + luma_range * luma, 128 * unit + chroma_range * blue[::2], 128 * unit + chroma_range * red[::2]]
    kind = np.uint8 if bits == 8 else np.uint16
    rows = [np.clip(np.rint(one), 0, 2**bits - 1).astype(kind) for one in values]
    return [np.tile(one, (height, 1)) for one, height in zip(rows, (32, 16, 16), strict=True)]


def write_colors(path: Path, codec: str, pixels: str, matrix: int, full: bool) -> None:
    width, content = 16 * len(COLORS), planes(matrix, full, DEPTHS[pixels])
    options = {"libx264": {"crf": "1"}, "libx265": {"crf": "1", "x265-params": "log-level=none"}}
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = width, 32, pixels
        stream.options = options.get(codec, {"crf": "4", "b": "4000000"})
        stream.codec_context.colorspace, stream.codec_context.color_range = matrix, 2 if full else 1
        for t in range(3):
            frame = av.VideoFrame(width, 32, pixels)
            frame.colorspace, frame.color_range, frame.pts = matrix, 2 if full else 1, t
            for plane, values in zip(frame.planes, content, strict=True):
                padded = np.zeros((plane.height, plane.line_size), np.uint8)
                raw = values.view(np.uint8).reshape(plane.height, -1)
                padded[:, : raw.shape[1]] = raw
                plane.update(padded.tobytes())
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def read_by_tags(path: Path) -> np.ndarray:
    """The colors of the columns by what the file says of itself, by the definition of the matrix; limited range."""
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
    assert frame.color_range == 1
    red_weight, blue_weight = WEIGHTS[frame.colorspace]
    luma, blue, red = (
        np.frombuffer(bytes(plane), np.uint8).reshape(plane.height, -1)[plane.height // 2].astype(float)
        for plane in frame.planes
    )
    at = np.arange(len(COLORS)) * 16 + 8
    luma, blue, red = (luma[at] - 16) / 219, (blue[at // 2] - 128) / 224, (red[at // 2] - 128) / 224
    r, b = luma + 2 * (1 - red_weight) * red, luma + 2 * (1 - blue_weight) * blue
    g = (luma - red_weight * r - blue_weight * b) / (1 - red_weight - blue_weight)
    return 255 * np.stack([r, g, b], axis=1)


SOURCES = [
    ("a.mp4", "libx264", "yuv420p"),
    ("a.mkv", "libx264", "yuv420p10le"),
    ("a.mp4", "libx265", "yuv420p10le"),
    ("a.webm", "libvpx", "yuv420p"),
    ("a.webm", "libvpx-vp9", "yuv420p"),
    ("a.mkv", "ffv1", "yuv420p"),
]


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("matrix", WEIGHTS)
@pytest.mark.parametrize(("name", "codec", "pixels"), SOURCES)
def test_colors_are_read_and_written_by_the_files_tags(
    name: str, codec: str, pixels: str, matrix: int, full: bool, tmp_path: Path
) -> None:
    write_colors(tmp_path / name, codec, pixels, matrix, full)
    image = next(decode_video(tmp_path / name))[2]
    assert np.abs(image[16, 8::16].astype(int) - COLORS).max() <= 3
    new, _ = again(tmp_path / name)
    assert np.abs(read_by_tags(new) - COLORS).max() <= 3
    assert probe(new).color == ColorTags(matrix, probe(new).color.primaries, probe(new).color.transfer, True)


def test_written_video_names_all_of_its_colors(tmp_path: Path) -> None:
    for height, matrix in ((48, 6), (720, 1)):
        encode_video(tmp_path / "plain.mp4", [np.full((height, 64, 3), 90, np.uint8)] * 2)
        assert probe(tmp_path / "plain.mp4").color == ColorTags()
        new, _ = again(tmp_path / "plain.mp4")
        assert probe(new).color == ColorTags(matrix, matrix, matrix, True)


def test_what_no_player_knows_is_not_refused_and_what_cannot_be_converted_is_one_line(tmp_path: Path) -> None:
    write_colors(tmp_path / "a.mkv", "ffv1", "yuv420p", 6, False)
    data = (tmp_path / "a.mkv").read_bytes()
    at = data.index(b"\x55\xb1\x81\x06") + 3  # Matroska's MatrixCoefficients
    for matrix in (3, 200):
        (tmp_path / "a.mkv").write_bytes(data[:at] + bytes([matrix]) + data[at + 1 :])
        assert np.abs(next(decode_video(tmp_path / "a.mkv"))[2][16, 8::16].astype(int) - COLORS).max() <= 3
    (tmp_path / "a.mkv").write_bytes(data[:at] + bytes([8]) + data[at + 1 :])
    with pytest.raises(BackdropError, match=r"a\.mkv has colors that cannot be converted .*matrix 8") as fault:
        next(decode_video(tmp_path / "a.mkv"))
    assert "\n" not in str(fault.value)


# ------------------------------------------------------------------------------------------ shape of pixels


def write_wide(path: Path, codec: str, aspect: Fraction) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.sample_aspect_ratio = aspect
        for image in square_frames(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "libx264"), ("a.mkv", "libx264"), ("a.mpg", "mpeg2video")])
@pytest.mark.parametrize("aspect", [Fraction(16, 11), Fraction(8, 9), Fraction(1)])
def test_pixels_keep_their_shape(name: str, codec: str, aspect: Fraction, tmp_path: Path) -> None:
    if codec == "mpeg2video":  # it names the shape of the frame
        aspect = aspect and Fraction(4, 3) / Fraction(WIDTH, HEIGHT)
    write_wide(tmp_path / name, codec, aspect)
    new, _ = again(tmp_path / name)
    with av.open(str(new)) as container:
        assert (container.streams.video[0].sample_aspect_ratio or 1) == aspect
    assert probe(new).aspect == aspect


def test_a_turned_frame_has_its_pixels_turned(tmp_path: Path) -> None:
    shown = Presentation([0, 0.1, 0.2], aspect=Fraction(16, 11))
    encode_video(tmp_path / "a.mp4", moving_picture(2), rotation=90, shown=shown)
    assert probe(tmp_path / "a.mp4").aspect == Fraction(11, 16)
    new, _ = again(tmp_path / "a.mp4")
    assert (probe(new).aspect, probe(new).width) == (Fraction(11, 16), 64)


def test_the_given_wide_video_keeps_shape_and_colors(cases: Path, tmp_path: Path) -> None:
    (tmp_path / "sar_hd.mp4").write_bytes((cases / "sar_hd.mp4").read_bytes())
    new, lost = again(tmp_path / "sar_hd.mp4")
    assert (probe(new).aspect, probe(new).color, lost) == (Fraction(16, 11), ColorTags(1, 1, 1, True), "")
    for (_, _, one), (_, _, other) in zip(decode_video(tmp_path / "sar_hd.mp4"), decode_video(new), strict=True):
        assert np.abs(one[::9, ::9].astype(int) - other[::9, ::9]).mean() < 3


# ------------------------------------------------------------------------------------------------- sound


def write_sound(path: Path, codec: str, rate: int = 48000, start: float = 0.0, layouts: Sequence[str] = ("stereo",)):
    """A second of video that begins at `start`, and sound that begins at 0 with a click at 0.5 s."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4" if path.suffix == ".avi" else "libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 25 if path.suffix == ".avi" else 1000)
        tracks = [container.add_stream(codec, rate=rate) for _ in layouts]
        for track, layout in zip(tracks, layouts, strict=True):
            track.layout = layout
        for t, image in enumerate(square_frames(20)):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.time_base = Fraction(1, 1000)
            frame.pts = round(1000 * start) + 40 * t
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        wave = np.zeros(rate, np.float32)
        wave[rate // 2 : rate // 2 + 300] = 0.9 * np.sin(0.3 * np.arange(300))
        for track, layout in zip(tracks, layouts, strict=True):
            for begin in range(0, rate, 1024):
                samples = np.tile(wave[begin : begin + 1024], (track.codec_context.layout.nb_channels, 1))
                frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout=layout)
                frame.sample_rate, frame.time_base, frame.pts = rate, Fraction(1, rate), begin
                container.mux(track.encode(frame))
            container.mux(track.encode())


def click_at(path: Path, track: int = 0) -> float:
    """When the click is heard, in seconds since the first frame."""
    with av.open(str(path)) as container:
        first = min(float(frame.time) for frame in container.decode(video=0))
    with av.open(str(path)) as container:
        resampler = av.AudioResampler(format="flt", layout="mono")
        for frame in container.decode(audio=track):
            for mono in resampler.resample(frame):
                loud = np.flatnonzero(np.abs(mono.to_ndarray()) > 0.3)
                if loud.size:
                    return float(mono.time) + loud[0] / mono.sample_rate - first
    raise AssertionError("no click")


def sound_codecs(path: Path) -> list[str]:
    with av.open(str(path)) as container:
        return [stream.codec_context.name for stream in container.streams.audio]


@pytest.mark.parametrize(
    ("name", "codec", "kept"),
    [
        ("a.mp4", "aac", "aac"),
        ("a.mkv", "libopus", "opus"),
        ("a.mkv", "flac", "flac"),
        ("a.mkv", "libmp3lame", "mp3float"),
        ("a.mov", "alac", "alac"),
        ("a.ts", "aac", "aac"),
        ("a.ts", "ac3", "ac3"),
        ("a.ts", "mp2", "aac"),
        ("a.mkv", "pcm_s16le", "aac"),
        ("a.avi", "pcm_s16le", "aac"),
    ],
)
@pytest.mark.parametrize("start", [0.0, 0.3])
def test_sound_is_kept_where_it_was(name: str, codec: str, kept: str, start: float, tmp_path: Path) -> None:
    if start and name == "a.avi":
        pytest.skip("in AVI everything begins at 0")
    write_sound(tmp_path / name, codec, start=start)
    new, lost = again(tmp_path / name)
    assert (lost, sound_codecs(new)) == ("", [kept])
    assert click_at(tmp_path / name) == pytest.approx(0.5 - start, abs=0.03)
    assert click_at(new) == pytest.approx(click_at(tmp_path / name), abs=0.005)


def test_copied_sound_is_the_same_bytes(tmp_path: Path) -> None:
    write_sound(tmp_path / "a.mp4", "aac", rate=44100, layouts=("stereo", "mono"))
    new, _ = again(tmp_path / "a.mp4")
    for track in range(2):
        packets = []
        for path in (tmp_path / "a.mp4", new):
            with av.open(str(path)) as container:
                packets.append([bytes(packet) for packet in container.demux(audio=track) if packet.size])
        assert packets[0] == packets[1]


def test_a_rate_that_aac_has_not_is_another_one(tmp_path: Path) -> None:
    write_sound(tmp_path / "a.mkv", "pcm_s16le", rate=192000)
    new, lost = again(tmp_path / "a.mkv")
    assert lost == ""
    assert click_at(new) == pytest.approx(0.5, abs=0.03)


def test_sound_of_a_part_ends_with_the_part(tmp_path: Path) -> None:
    write_sound(tmp_path / "a.mp4", "aac")
    frames = list(decode_video(tmp_path / "a.mp4"))[:10]
    times = [*(time for _, time, _ in frames), 0.4]
    images = [image for _, _, image in frames]
    assert redraw_video(tmp_path / "new.mp4", images, times, probe(tmp_path / "a.mp4"), whole=False) == ""
    with av.open(str(tmp_path / "new.mp4")) as container:
        assert max(float(frame.time) for frame in container.decode(audio=0)) < 0.45


def test_sound_that_cannot_be_read_is_said_and_the_frames_are_kept(tmp_path: Path) -> None:
    write_sound(tmp_path / "a.mkv", "pcm_s16le")
    data = (tmp_path / "a.mkv").read_bytes().replace(b"A_PCM/INT/LIT", b"A_QUUX/NO/SUC")
    (tmp_path / "a.mkv").write_bytes(data)
    new, lost = again(tmp_path / "a.mkv")
    assert lost
    assert "\n" not in lost
    assert sound_codecs(new) == []
    assert len(list(decode_video(new))) == 20


def test_a_video_without_sound_has_none_and_all_is_the_same_bytes_each_time(tmp_path: Path) -> None:
    path = write_square(tmp_path, Kind("a.mp4", "libx264"))
    new, lost = again(path)
    assert (lost, sound_codecs(new), len(list(decode_video(new)))) == ("", [], COUNT)
    write_sound(tmp_path / "b.mkv", "pcm_s16le")
    first = again(tmp_path / "b.mkv")[0].read_bytes()
    assert again(tmp_path / "b.mkv")[0].read_bytes() == first
