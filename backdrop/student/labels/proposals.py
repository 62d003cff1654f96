"""Boxes, points and masks of one frame -> what the student learns there, with the pixels left open that are not sure.

A box becomes a mask by GrabCut and a second proposal, the student's mask of the frame or its pseudo-mask: where both
say the same, it is known.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Bool, UInt8

from backdrop.io.masks import Soft
from backdrop.student.labels.checked import FrameLabel, box_slice
from backdrop.student.targets import IGNORED

SUBJECT = IGNORED - 1

CUT_STEPS = 5
"""Iterations of GrabCut."""

SEEN = 0.3
"""Overlap (J) in a box below which the second proposal has not found its subject."""

LOOSE = 0.02
"""Share of the image's height around a box that stays open: people draw them a little too small."""

DOT = 0.02
"""Radius of a point as a share of the image's height."""

FAINT = 0.5
"""In a tagged frame: share of the student's largest value above which a pixel may be the subject."""

LEAST_SIDE = 4
"""Pixels: GrabCut has nothing to learn colors from in smaller boxes."""

Plane = UInt8[np.ndarray, "H W"]
"""As pseudo-masks are stored: 0..254 for 0..1, or `IGNORED`."""


def learned(image: UInt8[np.ndarray, "H W 3"], label: FrameLabel, second: Soft | None) -> Plane:
    """What is to be learned of a labeled frame.

    Args:
        image: RGB at the working size.
        second: the other proposal; None: there is none.
    """
    if label.mask is not None:
        return label.mask
    height, width = image.shape[:2]
    plane = _cut_boxes(image, label.boxes, second) if label.boxes else _of_points(label, second, (width, height))
    radius = max(1, round(DOT * height))
    for points, value in ((label.points, SUBJECT), (label.background, 0)):
        for x, y in points:
            cv2.circle(plane, (int(x * width), int(y * height)), radius, value, -1)
    return plane


def of_tag(pseudo: Plane, second: Soft | None, activation: Soft | None) -> Plane:
    """What is to be learned of a frame of which somebody says that the subject is there.

    Where the pseudo-mask shows something, it stays. Else the subject is where the student's activation map (Grad-CAM)
    is largest, and in the part of the student's mask around that, however faint. Nothing is known elsewhere, and
    nothing at all in the first round, which has no student.

    Args:
        second: the student's mask. activation: see `Student.activation`.
    """
    if (pseudo % IGNORED > IGNORED // 2).any():
        return pseudo
    plane = np.full_like(pseudo, IGNORED)
    if activation is None or not activation.any():
        return plane
    y, x = (int(side) for side in np.unravel_index(int(activation.argmax()), activation.shape))
    cv2.circle(plane, (x, y), max(1, round(DOT * len(plane))), SUBJECT, -1)
    if second is not None and second[y, x] > FAINT * second.max():
        _, parts = cv2.connectedComponents((second > FAINT * second.max()).astype(np.uint8), connectivity=8)
        plane[parts == parts[y, x]] = SUBJECT
    return plane


def _cut_boxes(image: UInt8[np.ndarray, "H W 3"], boxes: Sequence[tuple[float, ...]], second: Soft | None) -> Plane:
    height, width = image.shape[:2]
    plane = np.zeros((height, width), np.uint8)
    places = [box_slice(box, (width, height)) for box in boxes]
    loose = max(1, round(LOOSE * height))
    for left, top, right, bottom in places:
        plane[max(0, top - loose) : bottom + loose, max(0, left - loose) : right + loose] = IGNORED
    cut = _grab_cut(image, places)
    if cut is None:
        return plane
    for left, top, right, bottom in places:
        inner = slice(top, bottom), slice(left, right)
        one = cut[inner]
        other = None if second is None else second[inner] > 0.5
        if other is not None and (one & other).sum() >= SEEN * max(1, (one | other).sum()):
            known = one == other
            plane[inner] = np.where(known, np.where(one, SUBJECT, 0), plane[inner])
        else:
            side = 2 * max(1, min(right - left, bottom - top) // 16) + 1
            sure = cv2.erode(one.astype(np.uint8), np.ones((side, side), np.uint8)) > 0
            plane[inner][sure] = SUBJECT
    return plane


def _grab_cut(
    image: UInt8[np.ndarray, "H W 3"], places: Sequence[tuple[int, int, int, int]]
) -> Bool[np.ndarray, "H W"] | None:
    """GrabCut from all boxes at once. None: too little is inside or outside of them."""
    state = np.full(image.shape[:2], cv2.GC_BGD, np.uint8)
    for left, top, right, bottom in places:
        if min(right - left, bottom - top) >= LEAST_SIDE:
            state[top:bottom, left:right] = cv2.GC_PR_FGD
    inside = float((state == cv2.GC_PR_FGD).mean())
    if not 0 < inside < 0.98:
        return None
    cv2.setRNGSeed(0)  # its clusters of colors are drawn
    models = np.zeros((1, 65)), np.zeros((1, 65))
    try:
        cv2.grabCut(image[..., ::-1].copy(), state, None, *models, CUT_STEPS, cv2.GC_INIT_WITH_MASK)  # type: ignore[call-overload]
    except cv2.error:  # a picture of one color
        return None
    return (state == cv2.GC_PR_FGD) | (state == cv2.GC_FGD)


def _of_points(label: FrameLabel, second: Soft | None, size: tuple[int, int]) -> Plane:
    """The parts of the second proposal that hold a point stay, other parts are open.

    Where a point lies in no part, the proposal is wrong about the subject, and nothing else is known.
    """
    width, height = size
    plane = np.full((height, width), IGNORED, np.uint8)
    if second is None:
        return plane
    _, parts = cv2.connectedComponents((second > 0.5).astype(np.uint8), connectivity=8)
    chosen = {int(parts[int(y * (height - 1)), int(x * (width - 1))]) for x, y in label.points}
    wrong = {int(parts[int(y * (height - 1)), int(x * (width - 1))]) for x, y in label.background}
    if 0 in chosen or chosen & wrong:
        return plane
    plane[parts == 0] = 0
    plane[np.isin(parts, list(chosen))] = SUBJECT
    return plane
