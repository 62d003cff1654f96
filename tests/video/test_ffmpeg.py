"""The corpus once more, made by the program ffmpeg: other versions of the encoders, and what PyAV cannot make."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from backdrop.video.decode import Tally, damage, decode_video, probe
from tests.video.field_pictures import write_fields
from tests.video.moving_square import COUNT, HEIGHT, WIDTH, extracted, overlap, square_at, square_frames, write_masks
from tests.video.test_corpus import check

pytestmark = pytest.mark.slow

CONSTANT = [t / 25 for t in range(COUNT)]

TWO_PASSES = ["-auto-alt-ref", "1", "-lag-in-frames", "16", "-b:v", "200k"]

INTERLACED = ["-flags", "+ildct+ilme"]

VARIABLE_TIMES = ["-vf", "setpts=(N*N+2*N)/(50*TB)", "-fps_mode", "passthrough", "-enc_time_base", "1/1000"]

KINDS: list[tuple[str, str, list[str]]] = [
    ("h264.mp4", "libx264", ["-bf", "3", "-b_strategy", "0"]),
    ("open_gop.mkv", "libx264", ["-g", "6", "-flags", "-cgop"]),
    ("tff.mp4", "libx264", ["-flags", "+ildct+ilme", "-x264-params", "tff=1"]),
    ("bff.mkv", "libx264", ["-flags", "+ildct+ilme", "-x264-params", "bff=1"]),
    ("tff.mts", "libx264", ["-flags", "+ildct+ilme", "-x264-params", "tff=1", "-f", "mpegts"]),
    ("h265.mp4", "libx265", ["-x265-params", "log-level=none"]),
    ("interlaced.ts", "mpeg2video", [*INTERLACED, "-bf", "2"]),
    ("interlaced.mpg", "mpeg2video", [*INTERLACED, "-bf", "2"]),
    ("interlaced.mkv", "mpeg2video", [*INTERLACED, "-alternate_scan", "1"]),
    ("packed.avi", "mpeg4", ["-bf", "2"]),
    ("av1.mp4", "libsvtav1", []),
    ("av1.mkv", "libaom-av1", ["-cpu-used", "8", "-lag-in-frames", "16"]),
    ("theora.ogv", "libtheora", ["-q:v", "10"]),
    ("fragments.mp4", "libx264", ["-movflags", "frag_keyframe+empty_moov", "-g", "6"]),
]


@pytest.fixture(scope="module")
def program() -> str:
    found = shutil.which("ffmpeg")
    if found is None:
        pytest.skip("the program ffmpeg is not installed; install the package ffmpeg of the distribution")
    return found


@pytest.fixture(scope="module")
def masks(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    return write_masks(tmp_path_factory.mktemp("masks"))


def run(program: str, arguments: Sequence[object], data: bytes = b"") -> None:
    command = [program, "-nostdin" if not data else "-hide_banner", "-v", "error", "-y", *map(str, arguments)]
    result = subprocess.run(command, input=data, capture_output=True, check=False)
    assert result.returncode == 0, result.stderr.decode()


def write(program: str, path: Path, codec: str, options: Sequence[str]) -> Path:
    encoders = subprocess.run([program, "-v", "error", "-encoders"], capture_output=True, check=True).stdout.decode()
    if f" {codec} " not in encoders:
        pytest.skip(f"this ffmpeg has no encoder {codec}")
    source = ["-f", "rawvideo", "-pix_fmt", "gray", "-s", f"{WIDTH}x{HEIGHT}", "-r", "25", "-i", "-"]
    data = b"".join(image[..., 0].tobytes() for image in square_frames())
    target = ["-c:v", codec, "-pix_fmt", "yuv420p", *options]
    if TWO_PASSES[0] in options:
        log = ["-passlogfile", path.with_suffix(".log")]
        run(program, [*source, *target, "-pass", "1", *log, "-f", "null", "-"], data)
        target += ["-pass", "2", *map(str, log)]
    run(program, [*source, *target, path], data)
    return path


@pytest.mark.parametrize(("name", "codec", "options"), KINDS, ids=[kind[0] for kind in KINDS])
def test_masks_lie_on_their_frames(
    name: str, codec: str, options: list[str], program: str, masks: dict[int, Path], tmp_path: Path
) -> None:
    path = write(program, tmp_path / name, codec, options)
    for threads in (1, 3):
        row, archive = extracted(path, masks, tmp_path / str(threads), threads)
        assert (row["status"], row["reason"]) == ("ok", "")
        check(archive, CONSTANT)


@pytest.mark.parametrize(("name", "codec"), [("vp8.webm", "libvpx"), ("vp8.mkv", "libvpx"), ("vp9.webm", "libvpx-vp9")])
def test_hidden_pictures_of_two_passes_take_no_number(
    name: str, codec: str, program: str, masks: dict[int, Path], tmp_path: Path
) -> None:
    row, archive = extracted(write(program, tmp_path / name, codec, TWO_PASSES), masks, tmp_path)
    assert (row["status"], row["masks"]) == ("ok", COUNT)
    check(archive, CONSTANT)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.mov"])
def test_times_of_a_variable_rate(name: str, program: str, masks: dict[int, Path], tmp_path: Path) -> None:
    path = write(program, tmp_path / name, "libx264", VARIABLE_TIMES)
    row, archive = extracted(path, masks, tmp_path)
    assert row["status"] == "ok"
    check(archive, [(t * t + 2 * t) / 50 for t in range(COUNT)])


@pytest.mark.parametrize("name", ["a.mkv", "a.mp4", "a.ts", "a.mts"])
def test_two_fields_are_one_frame_in_whatever_they_are_copied_into(
    name: str, program: str, masks: dict[int, Path], tmp_path: Path
) -> None:
    source = write_fields(tmp_path / "source.ts")
    container = ["-f", "mpegts"] if name == "a.mts" else []
    run(program, ["-i", source, "-c", "copy", *container, tmp_path / name])
    row, archive = extracted(tmp_path / name, masks, tmp_path)
    assert (row["status"], row["fps"]) == ("ok", 25)
    check(archive, CONSTANT)


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_a_clip_cut_without_encoding_begins_where_its_edit_list_says(codec: str, program: str, tmp_path: Path) -> None:
    source = write(program, tmp_path / "source.mp4", codec, ["-g", "100"])
    run(program, ["-ss", "0.28", "-i", source, "-c", "copy", tmp_path / "cut.mp4"])
    tally = Tally()
    decoded = list(decode_video(tmp_path / "cut.mp4", tally=tally))
    assert damage(probe(tmp_path / "cut.mp4"), tally) == ""
    assert [index for index, _, _ in decoded] == list(range(len(decoded)))
    first = int(np.argmax([overlap(decoded[0][2], square_at(t)) for t in range(COUNT)]))
    assert first in (0, 7)
    assert len(decoded) == COUNT - first
    assert all(overlap(image, square_at(first + index)) > 0.9 for index, _, image in decoded)


@pytest.mark.parametrize("matrix", ["bt601", "bt709", "bt2020"])
@pytest.mark.parametrize("full", [False, True])
def test_a_color_is_read_by_the_files_tags(matrix: str, full: bool, program: str, tmp_path: Path) -> None:
    color, path = (200, 40, 60), tmp_path / "a.mp4"
    tag = {"bt601": "smpte170m", "bt709": "bt709", "bt2020": "bt2020nc"}[matrix]
    scale = f"scale=out_color_matrix={matrix}:out_range={'full' if full else 'limited'}"
    tags = ["-colorspace", tag, "-color_range", "pc" if full else "tv"]
    source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", "64x48", "-r", "25", "-i", "-"]
    coded = ["-vf", scale, "-pix_fmt", "yuv420p", "-c:v", "libx264", "-crf", "1", *tags]
    run(program, [*source, *coded, path], np.full((3, 48, 64, 3), color, np.uint8).tobytes())
    assert np.abs(next(decode_video(path))[2][24, 32].astype(int) - color).max() <= 3
