"""Rival plain_inpaint: the papers' signal with `cv2.inpaint` in place of the inpainter.

The box (see `grabcut`) is painted over from around it by Telea's fast marching method (2004), which knows nothing of
the world; what differs from the frame is foreground. It is what inpainting error alone gives: where the background has
texture, that is an error, too.
"""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np

from backdrop.io.masks import Soft
from backdrop.motion.regions.stretch import blurred, stretched
from backdrop.rivals.classical.grabcut import box_edges
from backdrop.rivals.material import Material

RADIUS = 3
"""Pixels around a painted one that count."""


def plain_inpaint(material: Material) -> Iterator[Soft]:
    """Soft masks: the distance of colors, in shares of its 99th percentile in the box."""
    for t in range(len(material)):
        image = material.image(t)
        hole = np.zeros(image.shape[:2], np.uint8)
        edges = box_edges(material.box(t), material.size)
        if edges is None or edges[2] <= edges[0] or edges[3] <= edges[1]:
            yield np.zeros(hole.shape, np.float32)
            continue
        left, top, right, bottom = edges
        hole[top:bottom, left:right] = 1
        painted = cv2.inpaint(image, hole, RADIUS, cv2.INPAINT_TELEA)
        error = np.linalg.norm(image.astype(np.float32) - painted.astype(np.float32), axis=2)
        soft = np.zeros(hole.shape, np.float32)
        soft[top:bottom, left:right] = stretched(blurred(error, 0.004)[top:bottom, left:right])
        yield soft
