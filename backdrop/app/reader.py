"""Reading: the frames of a source one at a time, and what the networks find in them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np

from backdrop.app.segmenter import Segmenter
from backdrop.app.sources import Source
from backdrop.errors import BackdropError
from backdrop.frames.layouts.listing import warn
from backdrop.io.images import RGB, decode_image
from backdrop.io.masks import Mask
from backdrop.networks.predictor import Prediction
from backdrop.run.chunks import spread
from backdrop.run.threads import ahead
from backdrop.video.decode import Tally, decode_video, probe

CALIBRATION_FRAMES = 64
"""Enough images to show the ranges of a network's values."""


class Frame(NamedTuple):
    """A frame of a source: its number in the file (0 for an image), seconds since the first, (H, W, 3) uint8 RGB."""

    number: int
    time: float
    image: RGB


class Found(NamedTuple):
    """A frame and what the networks found in it: any threshold makes a mask of it without asking them again."""

    frame: Frame
    prediction: Prediction


def frames_of(source: Source, every: int = 1, tally: Tally | None = None) -> Iterator[Frame]:
    """The frames of a source one at a time; of a video frames 0, every, 2 every, ...

    Raises:
        BackdropError: it cannot be read; the message names it.
    """
    if not source.video:
        yield Frame(0, 0.0, decode_image(source.path))
        return
    for index, time, image in decode_video(source.path, every, tally=tally):
        yield Frame(index, time, np.ascontiguousarray(image))


def some_frames(sources: Sequence[Source]) -> list[RGB]:
    """About `CALIBRATION_FRAMES` images of sources, as many of each; of videos one a second, from the beginning.

    A source that cannot be read is warned of, and costs itself alone.

    Raises:
        BackdropError: not one of them can be read.
    """
    chosen, found = spread([source for source in sources if not source.fault], CALIBRATION_FRAMES), []
    faults = [source.fault for source in sources if source.fault]
    for source in chosen:
        try:
            every = max(1, round(probe(source.path).fps)) if source.video else 1
            for frame in islice(frames_of(source, every), -(-CALIBRATION_FRAMES // len(chosen))):
                found.append(frame.image)
        except BackdropError as fault:
            faults.append(str(fault))
    if not found:
        raise BackdropError(faults[0] if faults else "no footage is given by which the student is brought to 8 bits")
    for trouble in faults:
        warn(trouble)
    return found


def _batches(frames: Iterable[Frame], batch: int) -> Iterator[list[Frame]]:
    iterator = iter(frames)
    while together := list(islice(iterator, batch)):
        yield together


def find_subjects(
    segmenter: Segmenter, frames: Iterable[Frame], batch: int, instances: int | None = None, region: Mask | None = None
) -> Iterator[Found]:
    """The frames with what the networks find in them, in the same order.

    Each frame is segmented by itself. Batches are for speed. Frames of a batch may differ in size. The next batch is
    decoded while this one is segmented.

    Args:
        batch: frames of a batch; two of them are in memory at a time.
        instances: how many parts may make a mask (`Segmenter.predict_batch`'s `subjects`).
        region: of interest (`Segmenter.predict`).
    """
    for together in ahead(_batches(frames, batch)):
        predictions = segmenter.predict_batch([frame.image for frame in together], instances, region)
        yield from map(Found, together, predictions)
