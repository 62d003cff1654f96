"""The public segmenter: the names that the package offers, and a video frame by frame."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import backdrop
from backdrop.app.segmenter import Segmenter
from backdrop.errors import BackdropError
from backdrop.networks.predictor import Prediction
from backdrop.video.decode import decode_video
from backdrop.video.encode import encode_video
from tests.graph import ROOT, library_files
from tests.handmade_run import scene
from tests.small_pipeline import write_model

pytestmark = pytest.mark.usefixtures("one_thread")


def same(a: Prediction, b: Prediction) -> bool:
    close = all(np.allclose(x, y, atol=1e-5) for x, y in ((a.mask, b.mask), (a.box, b.box), (a.p, b.p)))
    return close and a.cell == b.cell


def test_the_package_offers_the_segmenter_its_prediction_and_its_error(tmp_path: Path) -> None:
    segmenter = backdrop.Segmenter.load(write_model(tmp_path / "model"), "cpu")
    assert type(segmenter) is Segmenter
    assert type(segmenter.predict(scene(1)[0][0])) is backdrop.Prediction
    with pytest.raises(backdrop.BackdropError, match="none"):
        backdrop.Segmenter.load(tmp_path / "none", "cpu")


def test_a_video_is_streamed_frame_by_frame(tmp_path: Path) -> None:
    segmenter, images = Segmenter.load(write_model(tmp_path / "model"), "cpu"), scene(6)[0]
    encode_video(tmp_path / "run.mp4", images, fps=10)
    decoded = [image for _, _, image in decode_video(tmp_path / "run.mp4")]
    found = list(segmenter.stream(tmp_path / "run.mp4", every=2, batch=2))
    assert [number for number, *_ in found] == [0, 2, 4]
    assert [time for _, time, *_ in found] == pytest.approx([0, 0.2, 0.4])
    for number, _, image, prediction in found:
        assert np.array_equal(image, decoded[number])
        assert same(prediction, segmenter.predict(decoded[number]))
    first = next(segmenter.stream(tmp_path / "run.mp4", batch=1))
    assert same(first[3], found[0][3])
    with pytest.raises(BackdropError, match=r"none\.mp4"):
        next(segmenter.stream(tmp_path / "none.mp4"))


def test_only_the_stages_that_write_or_read_videos_depend_on_the_decoder() -> None:
    users = {
        file.stem
        for file in (ROOT / "stages").glob("*.py")
        if any(dep.startswith("backdrop/video/") for dep in library_files(file))
    }
    assert users == {"s0_render", "s1_frames"}
