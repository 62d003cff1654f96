"""The public `Segmenter`: what a model folder finds in images, and in videos frame by frame."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from backdrop.io.images import RGB
from backdrop.io.masks import Mask
from backdrop.networks.predictor import ImageLike, Prediction, Predictor
from backdrop.video.decode import decode_video


class Segmenter(Predictor):
    """D, S and (after self-training) the student of a model folder, ready to segment images and videos.

    `stream` alone decodes video. It stands here, apart from `Predictor`, so that no stage depends on the decoder.

    Example:
        >>> segmenter = Segmenter.load("models/segmenter")
        >>> mask = segmenter.predict(image).mask > 0.5
    """

    def predict_batch(
        self, images: Sequence[ImageLike], subjects: int | None = None, region: Mask | None = None
    ) -> list[Prediction]:
        """As `Predictor.predict_batch`. On a CPU each core takes a part of the images.

        Threads that share one image wait for each other at every layer, and spin while they wait. Beside other programs
        that took twice the time of a single thread, and three times its work.
        """
        threads = torch.get_num_threads()
        cores = min(threads, len(images))
        if self.device.type != "cpu" or cores < 2:
            return super().predict_batch(images, subjects, region)
        parts = [images[i * len(images) // cores : (i + 1) * len(images) // cores] for i in range(cores)]

        def predict_part(part: Sequence[ImageLike]) -> list[Prediction]:
            return Predictor.predict_batch(self, part, subjects, region)

        # each thread keeps its own number of threads; new ones take that which was set last
        try:
            with ThreadPoolExecutor(cores, initializer=torch.set_num_threads, initargs=(1,)) as pool:
                return [prediction for found in pool.map(predict_part, parts) for prediction in found]
        finally:
            torch.set_num_threads(threads)

    def stream(
        self,
        video: str | Path,
        every: int = 1,
        batch: int = 8,
        subjects: int | None = None,
        region: Mask | None = None,
    ) -> Iterator[tuple[int, float, RGB, Prediction]]:
        """The frames of a video as they are decoded: number in the file, seconds since the first, image, prediction.

        Each frame is segmented by itself; a batch of them is held at a time, whatever the video's length.

        Args:
            video: the file. every: frames 0, every, 2 every, ... region: of interest, as in `predict`.

        Raises:
            BackdropError: it cannot be read; what came before the fault has been given.
        """
        frames = decode_video(Path(video), every)
        while some := list(islice(frames, batch)):
            images = [np.ascontiguousarray(image) for _, _, image in some]
            predictions = self.predict_batch(images, subjects, region)
            for (number, time, _), image, found in zip(some, images, predictions, strict=True):
                yield number, time, image, found
