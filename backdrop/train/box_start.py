"""The size that all boxes begin with: from what moves in the flow, or from the masks of an earlier run."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from backdrop.io.masks import Mask, MaskArchive, box_from_mask
from backdrop.learn.training_frames import TrainingFrames
from backdrop.motion.blobs import otsu
from backdrop.motion.flow_field import FlowArchive
from backdrop.motion.moving import flow_mask, flow_soft
from backdrop.run.chunks import spread
from backdrop.train.background import mask_files
from backdrop.train.parameters import TrainStage

START_FRAMES = 12
"""Frames of a sequence that the boxes' first size is estimated from."""


def first_size(params: TrainStage, data: TrainingFrames) -> tuple[float, float] | None:
    """Width and height that boxes begin with, shares of the image; None where nothing is known of the subject.

    Of masks, a cell more than `train.box_start` times the subject: a box whose offset does not learn is off by up to
    half a cell. What moves in the flow is more than the subject.
    """
    masks = [MaskArchive(path) for path in mask_files(params.background, data.frames)]
    if masks:
        size, cell = masked_size(masks, [len(one) for one in data.frames]), 1 / params.detector.grid
    else:
        size, cell = moving_size(data.flows or []), 0.0
    return None if size is None else (params.train.box_start * size[0] + cell, params.train.box_start * size[1] + cell)


def moving_size(flows: Sequence[FlowArchive]) -> tuple[float, float] | None:
    """How large what moves is: width and height as shares of the image, of the largest moving blob.

    The median over frames spread over the sequences (parallax joins the blob in some of them), of thresholded
    stabilized flow (`motion.blobs`). None where nothing moves. No ground truth is read.
    """
    masks = []
    for flow in flows:
        for t in spread(range(len(flow)), START_FRAMES):
            vectors, valid = flow.read(t)
            soft = flow_soft(vectors, valid)
            masks.append(flow_mask(soft, otsu(soft, valid)))
    return _median_size(masks)


def masked_size(archives: Sequence[MaskArchive], counts: Sequence[int]) -> tuple[float, float] | None:
    """How large the subject of given masks is, as `moving_size`; `counts` are the frames of the sequences."""
    masks = []
    for archive, count in zip(archives, counts, strict=True):
        there = [t for t in range(count) if archive.has(t)]
        masks += [archive.gray(t) > 127 for t in spread(there, START_FRAMES)]
    return _median_size(masks)


def _median_size(masks: Sequence[Mask]) -> tuple[float, float] | None:
    """Median width and height of the extent of masks, shares of the image; None where all are empty."""
    boxes = [box for box in map(box_from_mask, masks) if box is not None]
    if not boxes:
        return None
    width, height = np.median(np.array(boxes)[:, 2:] / 2, axis=0)
    return float(width), float(height)
