"""COCO's run lengths: a mask column by column, as the lengths of its runs, the first one background."""

from __future__ import annotations

import numpy as np

from backdrop.io.masks import Mask


def run_lengths(counts: str) -> list[int]:
    """The lengths in a compressed RLE. Their sum is checked by nobody: pycocotools reads memory at random then.

    Raises:
        ValueError: it is none.
    """
    runs: list[int] = []
    value = shift = 0
    for letter in counts.encode("ascii"):
        digit = letter - 48
        value |= (digit & 31) << shift
        shift += 5
        if not digit & 32:
            if digit & 16:
                value -= 1 << shift
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    if shift or min(runs, default=0) < 0:
        raise ValueError("no run lengths")
    return runs


def mask_of_runs(runs: list[int], size: tuple[int, int], *, by_rows: bool = False) -> Mask:
    """The mask with these run lengths.

    Args:
        size: (width, height).
        by_rows: the runs follow the rows, as CVAT has them.

    Raises:
        ValueError: they are not those of a mask of this size.
    """
    width, height = size
    if min(runs, default=0) < 0 or sum(runs) != width * height:
        raise ValueError(f"run lengths of {sum(runs)} pixels for {width}x{height}")
    flat = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return flat.reshape(height, width) if by_rows else flat.reshape(width, height).T
