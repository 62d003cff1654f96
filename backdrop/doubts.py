"""Doubts: signs that the mask of a frame is wrong, told from the masks of a video without truth.

They are told from masks alone, so they cost next to nothing. They miss much: a mask that is wrong in the same way in
all frames raises none. What they are worth is measured by a script; docs/cli.md has its name and the figures.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

import numpy as np

from backdrop.io.masks import Mask, Soft

UNSURE = 0.6
"""Below this sureness a mask is worth a look. Rendered test videos, with J from .74 to .91, have .69 to .81."""

SIZE_CHANGE = 3.0
"""A mask so many times as large as the video's median, or so many times smaller, is worth a look."""

JUMP_AREA, JUMP_OVERLAP = 0.4, 0.1
"""A mask jumps where it and the one before differ in area by more than this share, or overlap (J) by less."""


class Doubt(StrEnum):
    """Why to look at a frame."""

    empty = "empty"
    unsure = "unsure"
    jump = "jump"
    size = "size"


MEANING = {
    Doubt.empty: "no mask",
    Doubt.unsure: "the model is unsure of the mask",
    Doubt.jump: "the mask jumps: it hardly fits the one before",
    Doubt.size: "the mask is far larger or smaller than most of this video's",
}


def sureness(soft: Soft, mask: Mask) -> float:
    """How much of the union of mask and subject is common to both, by the model's own probabilities; in [0, 1].

    It is the model's view of J, and a model can be sure and wrong. 0 where the mask is empty.

    Args:
        soft: (H, W) float32 in [0, 1], 1 = foreground. mask: (H, W) bool, True = foreground.
    """
    area = np.count_nonzero(mask)
    if not area:
        return 0.0
    inside = float(np.sum(soft, where=mask))
    return inside / (area + float(soft.sum()) - inside)


def doubts(areas: Sequence[float], overlaps: Sequence[float | None], sure: Sequence[float]) -> list[tuple[Doubt, ...]]:
    """Why to look at each frame of a video, or at an image; () where nothing speaks against its mask.

    Args:
        areas: of the masks, as shares of the frame.
        overlaps: J of each mask with the one before, in [0, 1]. None: unknown, as for the first.
        sure: see `sureness`.
    """
    filled = [area for area in areas if area]
    usual = float(np.median(filled)) if filled else 0.0
    found: list[tuple[Doubt, ...]] = []
    for t, (area, overlap) in enumerate(zip(areas, overlaps, strict=True)):
        if not area:
            found.append((Doubt.empty,))
            continue
        before = areas[t - 1] if t else 0.0
        ratio = min(area, before) / max(area, before)
        known = {
            Doubt.unsure: sure[t] < UNSURE,
            Doubt.jump: bool(before) and overlap is not None and (ratio < JUMP_AREA or overlap < JUMP_OVERLAP),
            Doubt.size: not usual / SIZE_CHANGE <= area <= usual * SIZE_CHANGE,
        }
        found.append(tuple(doubt for doubt, there in known.items() if there))
    return found
