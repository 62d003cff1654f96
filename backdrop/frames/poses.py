"""2D poses as a data set's folder `poses` holds them, and the boxes around them: the truth of boxes in the papers."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from backdrop.errors import BackdropError
from backdrop.frames.entries import nfc
from backdrop.frames.layouts.listing import Sequence, stem_number
from backdrop.io.files import show
from backdrop.io.masks import Box, Mask

FORM = "a first line `frame,x0,y0,x1,y1,...`, then a line a frame, joints in pixels, empty where one is not seen"


def read_poses(path: Path) -> dict[str, Float64[np.ndarray, "J 2"]]:
    """Frame, as its line names it -> x, y of its joints in pixels of the source, NaN where one is not seen.

    Raises:
        BackdropError: the file is no table of poses (`FORM`); the message names it and the line.
    """
    try:
        lines = list(csv.reader(path.read_text(encoding="utf-8-sig").splitlines()))
    except (OSError, UnicodeDecodeError, csv.Error) as fault:
        raise BackdropError(f"poses {show(path)} cannot be read ({fault}); expected {FORM}") from None
    head = lines[0] if lines else []
    if len(head) < 5 or len(head) % 2 == 0 or head[0].strip().lower() != "frame":
        raise BackdropError(f"poses {show(path)} have no head of a table; expected {FORM}")
    found: dict[str, np.ndarray] = {}
    for number, line in enumerate(lines[1:], 2):
        if not any(cell.strip() for cell in line):
            continue
        try:
            joints = np.array([float(cell) if cell.strip() else np.nan for cell in line[1:]]).reshape(-1, 2)
        except ValueError:
            joints = np.full((1, 2), np.inf)
        if len(line) != len(head) or np.isinf(joints).any():
            raise BackdropError(f"poses {show(path)}, line {number}: not {len(head)} numbers; expected {FORM}")
        frame = nfc(line[0].strip())
        if frame in found:
            raise BackdropError(f"poses {show(path)}, line {number}: frame {frame} is there twice; remove one")
        found[frame] = joints
    return found


def pose_box(joints: Float64[np.ndarray, "J 2"], size: tuple[int, int]) -> Box | None:
    """The tight box around the joints that are seen, cut at the image, cx, cy, w, h as in `io.masks`; None: no area.

    Args:
        size: (width, height) in pixels of the image that the joints are measured in.
    """
    seen = joints[np.isfinite(joints).all(axis=1)]
    if not len(seen):
        return None
    corners = np.stack([seen.min(axis=0), seen.max(axis=0)])
    low, high = (2 * corners / np.array(size) - 1).clip(-1, 1)
    return None if (high <= low).any() else np.concatenate([(low + high) / 2, high - low])


class PoseSource:
    """The poses of one sequence by frame number in the source.

    Lines name a frame of a video by its number from 0, one of a folder of images by its stem or by the number that ends
    the stem (frame_000012.jpg: frame_000012, 000012 or 12).

    Raises:
        BackdropError: no table of poses, or none of its lines names a frame of the folder.
    """

    def __init__(self, sequence: Sequence) -> None:
        self.joints: dict[int, np.ndarray] = {}
        self.given = sequence.poses is not None
        if sequence.poses is None:
            return
        poses = read_poses(sequence.poses)
        places = _pose_places(sequence)
        for name, joints in poses.items():
            number = places.get(name, places.get(str(int(name))) if name.isdecimal() else None)
            if number is None and sequence.video is not None and name.isdecimal():
                number = int(name)
            if number is not None:
                self.joints[number] = joints
        if poses and not self.joints:
            raise BackdropError(f"poses {show(sequence.poses)}: no line names a frame of {sequence.source}")

    def box(self, index: int, size: tuple[int, int], region: Mask | None = None) -> Box | None:
        """The box of source frame `index`, whose size is (width, height); None where its pose is not known.

        Args:
            region: of interest, at that size: joints outside are not seen. None: the whole image.
        """
        joints = self.joints.get(index)
        if joints is None:
            return None
        return pose_box(joints if region is None else _joints_within(joints, region), size)


def _joints_within(joints: Float64[np.ndarray, "J 2"], region: Mask) -> Float64[np.ndarray, "J 2"]:
    """The joints, NaN where one lies outside of a region."""
    height, width = region.shape
    x, y = np.nan_to_num(joints, nan=-1).T
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    inside[inside] = region[y[inside].astype(int), x[inside].astype(int)]
    return np.where(inside[:, None], joints, np.nan)


def _pose_places(sequence: Sequence) -> Mapping[str, int]:
    """How lines may name the images of a folder -> their places."""
    numbers = {str(n): i for i, path in enumerate(sequence.images) if (n := stem_number(path)) is not None}
    return numbers | {nfc(path.stem): i for i, path in enumerate(sequence.images)}
