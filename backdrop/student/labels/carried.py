"""What is known of a labeled frame, carried to the frames around it along the optical flow."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from jaxtyping import Bool, Float32, UInt8

from backdrop.student.labels.proposals import SUBJECT, Plane
from backdrop.student.targets import IGNORED

CARRY = 4
"""Frames, on each side, that a box or a mask is carried to."""

RETURN = 1.0
"""Pixels, and a twentieth of the flow, by which flow there and back may miss the pixel it started from."""

FADED = 40
"""Gray levels by which a pixel may change on its way."""

SURE = 0.25
"""An interpolated mask below this is background, above one less this subject; between them, at the outline, open."""

FramePixels = UInt8[np.ndarray, "H W 3"]


def carried(plane: Plane, start: int, stop: int, image: Callable[[int], FramePixels]) -> dict[int, Plane]:
    """The plane of frame `start` brought to each frame up to `stop`, on either side of it, one frame at a time.

    Pixels that the flow does not bring back to where they came from, or that change their color, become open.

    Args:
        image: frame number -> RGB.
    """
    step = 1 if stop > start else -1
    found: dict[int, Plane] = {}
    gray = cv2.cvtColor(image(start), cv2.COLOR_RGB2GRAY)
    value, known = (plane == SUBJECT).astype(np.float32), (plane != IGNORED).astype(np.float32)
    for t in range(start + step, stop + step, step):
        before, gray = gray, cv2.cvtColor(image(t), cv2.COLOR_RGB2GRAY)
        there, back = _dis(gray, before), _dis(before, gray)
        missed = np.linalg.norm(there + _moved(back, there), axis=2)
        fine = _lands_inside(there) & (missed < RETURN + 0.05 * np.linalg.norm(there, axis=2))
        seen = _moved(before.astype(np.float32), there)
        fine &= np.abs(seen - gray) < FADED
        value = _moved(value, there)
        known = ((_moved(known, there) > 0.99) & fine).astype(np.float32)
        sure = (known > 0) & ((value < SURE) | (value > 1 - SURE))
        found[t] = np.where(sure, np.where(value > 0.5, SUBJECT, 0), IGNORED).astype(np.uint8)
    return found


def _dis(image: UInt8[np.ndarray, "H W"], other: UInt8[np.ndarray, "H W"]) -> Float32[np.ndarray, "H W 2"]:
    search = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)  # type: ignore[attr-defined]
    return search.calc(image, other, None).astype(np.float32)  # type: ignore[call-overload]


def _moved(field: np.ndarray, flow: Float32[np.ndarray, "H W 2"]) -> np.ndarray:
    """The field where the flow leads."""
    return cv2.remap(field, *_places(flow), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _places(flow: Float32[np.ndarray, "H W 2"]) -> tuple[np.ndarray, np.ndarray]:
    """x and y to which the flow leads from each pixel."""
    height, width = flow.shape[:2]
    x = np.arange(width, dtype=np.float32)[None, :] + flow[..., 0]
    y = np.arange(height, dtype=np.float32)[:, None] + flow[..., 1]
    return x, y


def _lands_inside(flow: Float32[np.ndarray, "H W 2"]) -> Bool[np.ndarray, "H W"]:
    height, width = flow.shape[:2]
    x, y = _places(flow)
    return (x > -0.5) & (x < width - 0.5) & (y > -0.5) & (y < height - 0.5)
