"""Soft masks of a video pooled over neighboring frames: outlines that flicker less."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from backdrop.io.masks import Soft, within

FLOW_PIXELS = 428 * 240
"""Flow is computed on images of at most so many pixels."""


def pooled(images: Sequence[UInt8[np.ndarray, "H W 3"]], masks: Sequence[Soft], at: int) -> Soft:
    """Mean of the soft masks of successive frames, each brought to frame `at` along the flow.

    Args:
        images, masks: of the frames, all of one size.
        at: index of the frame whose mask it shall be.
    """
    height, width = images[at].shape[:2]
    size = within((width, height), FLOW_PIXELS)
    gray = [cv2.resize(cv2.cvtColor(i, cv2.COLOR_RGB2GRAY), size, interpolation=cv2.INTER_AREA) for i in images]
    total = np.zeros((height, width), np.float32)
    for k, mask in enumerate(masks):
        total += mask if k == at else _along(mask, _flow(gray[at], gray[k]))
    return total / len(masks)


def _flow(image: np.ndarray, other: np.ndarray) -> Float32[np.ndarray, "h w 2"]:
    search = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)  # type: ignore[attr-defined]
    return search.calc(image, other, None).astype(np.float32)  # type: ignore[call-overload]


def _along(mask: Soft, flow: Float32[np.ndarray, "h w 2"]) -> Soft:
    """The mask of the other frame where the flow says that each pixel went."""
    height, width = mask.shape
    scale = np.array([width / flow.shape[1], height / flow.shape[0]], np.float32)
    full = cv2.resize(flow, (width, height), interpolation=cv2.INTER_LINEAR) * scale
    x = np.arange(width, dtype=np.float32)[None, :] + full[..., 0]
    y = np.arange(height, dtype=np.float32)[:, None] + full[..., 1]
    return cv2.remap(mask, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)  # type: ignore[return-value]
