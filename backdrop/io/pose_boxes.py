"""Boxes around 2D poses, which some data sets give as the truth of boxes: in the archives of `data/frames`."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from backdrop.io.archives import ZIP_FAULTS, ArchiveReader

POSE_BOXES = "pose_boxes.npy"


def encode_pose_boxes(boxes: Float64[np.ndarray, "N 4"]) -> bytes:
    """What `pose_boxes` reads: a row for each stored frame, NaN where the pose is not known."""
    stream = io.BytesIO()
    np.save(stream, boxes, allow_pickle=False)
    return stream.getvalue()


class _Boxes(ArchiveReader):
    remedy = "run the stage frames again"
    remedy_missing = "run the stage frames first"

    def read(self) -> Float64[np.ndarray, "N 4"] | None:
        if POSE_BOXES not in self._entry_names():
            return None
        try:
            boxes = np.load(io.BytesIO(self._read(POSE_BOXES)), allow_pickle=False)
        except ZIP_FAULTS as fault:
            raise self._damaged(POSE_BOXES) from fault
        if boxes.ndim != 2 or boxes.shape[1] != 4 or boxes.dtype != np.float64:
            raise self._damaged(POSE_BOXES)
        return boxes


def pose_boxes(path: Path) -> Float64[np.ndarray, "N 4"] | None:
    """Boxes of a sequence of `data/frames` by its poses: cx, cy, w, h as in `io.masks`; None: it has no poses.

    Raises:
        BackdropError: the archive is missing or damaged.
    """
    return _Boxes(path).read()
