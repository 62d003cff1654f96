"""`predict` on video that is damaged, of a variable rate, or with sound: what the records and the written video say."""

from __future__ import annotations

import json
from pathlib import Path

import av
import numpy as np
import pytest

from backdrop.app.exports import common
from backdrop.app.page import drawing, segmented_file
from backdrop.app.page.text import status_line
from backdrop.app.segmenter import Segmenter
from backdrop.video.decode import decode_video, probe
from backdrop.video.encode import encode_video
from tests.backdrop_command import call
from tests.small_pipeline import write_model
from tests.video.moving_square import COUNT, VARIABLE, Kind, write_square
from tests.video.test_redraw import sound_codecs, stamps, write_sound

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "segmenter")


def predict(model: Path, *arguments: object) -> tuple[int, str]:
    return call("predict", *arguments, "--model", model, "--refine", "none", "--threshold", "0.4", "--device", "cpu")


@pytest.fixture
def cut(tmp_path: Path) -> Path:
    """Its header declares 12 frames; about half of them are there."""
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 255, (48, 64, 3), dtype=np.uint8) for _ in range(12)]
    encode_video(tmp_path / "cut.mp4", frames, fps=10, codec="mjpeg")
    data = (tmp_path / "cut.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) * 6 // 10])
    return tmp_path / "cut.mp4"


def last_line(out: Path, name: str) -> dict:
    return json.loads((out / "records" / f"{name}.jsonl").read_text().splitlines()[-1])


def test_a_damaged_video_is_said_each_time_and_segmented_as_far_as_it_goes(
    cut: Path, model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    for _ in range(2):  # the second time nothing is left to do
        status, text = predict(model, cut, "-o", out, "-f", "masks", "-f", "video", "-f", "coco")
        assert status == 3
        frames = len(list((out / "masks" / "cut").iterdir()))
        warnings = [line for line in text.splitlines() if "warning" in line]
        assert len(warnings) == 1
        assert f"cut.mp4 (damaged): {frames} of 12 declared frames could be decoded" in warnings[0]
    assert 2 <= frames < 12
    assert len(list(decode_video(out / "video" / "cut.mp4"))) == frames
    assert "of 12 declared frames" in last_line(out, "cut")["damage"]
    status, text = call("export", out, "-f", "yolo")
    assert status == 3
    assert "of 12 declared frames" in text


def test_a_repaired_video_is_segmented_anew(cut: Path, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert predict(model, cut, "-o", out)[0] == 3
    encode_video(cut, [np.full((48, 64, 3), 20 * t, np.uint8) for t in range(12)], fps=10, codec="mjpeg")
    status, text = predict(model, cut, "-o", out)
    assert (status, "warning" in text) == (0, False)
    assert len(list((out / "masks" / "cut").iterdir())) == 12
    assert last_line(out, "cut") == {"whole": True, "end": 1.2, "damage": ""}


def test_the_page_says_what_is_missing(cut: Path, model: Path, tmp_path: Path) -> None:
    segmented = segmented_file.segment_file(Segmenter.load(model, "cpu"), cut, tmp_path)
    assert "The file is damaged: " in status_line(segmented)
    assert "of 12 declared frames" in status_line(segmented)


@pytest.mark.parametrize("every", [1, 2])
def test_times_reach_the_records_and_the_written_video(every: int, model: Path, tmp_path: Path) -> None:
    source = write_square(tmp_path, Kind("run.webm", "libvpx", times=VARIABLE))
    status, text = predict(model, source, "-o", tmp_path / "out", "-f", "video", "--every", every)
    assert status == 0, text
    ((_, records),) = common.recorded(tmp_path / "out")
    assert [record.frame for record in records.frames] == list(range(0, COUNT, every))
    assert [record.time for record in records.frames] == pytest.approx(VARIABLE[::every], abs=1e-3)
    written = stamps(tmp_path / "out" / "video" / "run.mp4")
    assert written[:-1] == pytest.approx(VARIABLE[::every], abs=1e-3)
    assert written[-1] == pytest.approx(records.ending.end, abs=1e-3)


def test_sound_reaches_the_written_video_or_its_loss_is_said(model: Path, tmp_path: Path) -> None:
    write_sound(tmp_path / "run.mkv", "pcm_s16le")
    status, text = predict(model, tmp_path / "run.mkv", "-o", tmp_path / "out", "-f", "video", "--every", 5)
    assert (status, "not all sound" in text) == (0, False)
    assert sound_codecs(tmp_path / "out" / "video" / "run.mp4") == ["aac"]
    data = (tmp_path / "run.mkv").read_bytes().replace(b"A_PCM/INT/LIT", b"A_QUUX/NO/SUC")
    (tmp_path / "run.mkv").write_bytes(data + b"\xec\x80")  # Void: another size, so that it is segmented anew
    status, text = predict(model, tmp_path / "run.mkv", "-o", tmp_path / "out", "-f", "video", "--every", 5)
    said = [line for line in text.splitlines() if "not all sound" in line]
    assert (status, len(said)) == (0, 1)
    assert "run.mkv" in said[0]


def test_the_pages_video_has_times_and_sound_of_its_part(model: Path, tmp_path: Path) -> None:
    write_sound(tmp_path / "run.mp4", "aac")
    segmented = segmented_file.segment_file(Segmenter.load(model, "cpu"), tmp_path / "run.mp4", tmp_path, most=10)
    _, video, lost = drawing.write_clip(segmented, 0.4)
    assert lost == ""
    assert stamps(video) == pytest.approx([t / 25 for t in range(11)], abs=1e-3)
    with av.open(str(video)) as container:
        assert max(float(frame.time) for frame in container.decode(audio=0)) < 0.45


def test_the_given_cut_file_ends_with_status_3(cases: Path, model: Path, tmp_path: Path) -> None:
    status, text = predict(model, cases / "trunc.mp4", "-o", tmp_path)
    assert status == 3
    assert "13 of 30 declared frames" in text


def test_the_given_wide_video_keeps_its_shape(cases: Path, model: Path, tmp_path: Path) -> None:
    assert predict(model, cases / "sar_hd.mp4", "-o", tmp_path, "-f", "video")[0] == 0
    one, other = probe(cases / "sar_hd.mp4"), probe(tmp_path / "video" / "sar_hd.mp4")
    assert (one.aspect, one.color.matrix) == (other.aspect, other.color.matrix)
