"""The public segmenter: the names that the package offers, and a video frame by frame."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import torch

import backdrop
from backdrop.app.segmenter import Segmenter
from backdrop.errors import BackdropError
from backdrop.networks.predictor import Predictor
from backdrop.video.decode import decode_video
from backdrop.video.encode import encode_video
from tests.handmade_run import scene
from tests.small_pipeline import same_prediction, write_model

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_package_offers_the_segmenter_its_prediction_and_its_error(tmp_path: Path) -> None:
    segmenter = backdrop.Segmenter.load(write_model(tmp_path / "model"), "cpu")
    assert type(segmenter) is Segmenter
    assert type(segmenter.predict(scene(1)[0][0])) is backdrop.Prediction
    with pytest.raises(backdrop.BackdropError, match="none"):
        backdrop.Segmenter.load(tmp_path / "none", "cpu")


@pytest.mark.parametrize("count", [1, 2, 5])
def test_each_core_takes_a_part_of_the_images_and_none_is_shared(
    count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three threads, of which each segments by itself; the same is found, in the same order, and all is as before."""
    segmenter, images = Segmenter.load(write_model(tmp_path / "model"), "cpu"), scene(5)[0][:count]
    alone = [segmenter.predict(image) for image in images]
    seen: list[tuple[int, int]] = []
    predict = Predictor.predict_batch

    def watched(self: Predictor, part: Sequence[np.ndarray], *rest: Any) -> Any:
        seen.append((len(part), torch.get_num_threads()))
        return predict(self, part, *rest)

    monkeypatch.setattr(Predictor, "predict_batch", watched)
    torch.set_num_threads(3)
    try:
        found = segmenter.predict_batch(images)
        after: list[int] = [torch.get_num_threads()]
        other = Thread(target=lambda: after.append(torch.get_num_threads()))
        other.start()
        other.join()
    finally:
        torch.set_num_threads(1)
    assert after == [3, 3], "the caller's threads, and those of a thread that is new"
    assert sorted(seen) == {1: [(1, 3)], 2: [(1, 1)] * 2, 5: [(1, 1), (2, 1), (2, 1)]}[count]
    for one, other_one in zip(found, alone, strict=True):
        assert same_prediction(one, other_one)


def test_a_video_is_streamed_frame_by_frame(tmp_path: Path) -> None:
    segmenter, images = Segmenter.load(write_model(tmp_path / "model"), "cpu"), scene(6)[0]
    encode_video(tmp_path / "run.mp4", images, fps=10)
    decoded = [image for _, _, image in decode_video(tmp_path / "run.mp4")]
    found = list(segmenter.stream(tmp_path / "run.mp4", every=2, batch=2))
    assert [number for number, *_ in found] == [0, 2, 4]
    assert [time for _, time, *_ in found] == pytest.approx([0, 0.2, 0.4])
    for number, _, image, prediction in found:
        assert np.array_equal(image, decoded[number])
        assert same_prediction(prediction, segmenter.predict(decoded[number]))
    first = next(segmenter.stream(tmp_path / "run.mp4", batch=1))
    assert same_prediction(first[3], found[0][3])
    with pytest.raises(BackdropError, match=r"none\.mp4"):
        next(segmenter.stream(tmp_path / "none.mp4"))
