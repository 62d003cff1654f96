"""Renders the embedded footage: a moving camera, a structured scene, an articulated subject, the exact truth.

A `Clip` is a pure function of its arguments: any frame, mask, box, homography or flow can be asked for in
any order.

Camera modes:
    static: the camera does not move at all.
    ptz: it pans, tilts, zooms, rolls and shakes about its optical center; one homography relates all of the
        background between two frames, exactly.
    handheld: its center moves as well. Facades (depth 1), the ground plane, fence and trees shift against one
        another, each by a homography of its own; `Clip.homography` is that of the facades, the farthest and
        mostly the dominant plane.

Convention (all warps here): pixel coordinates are (x, y), x to the right and y down, with pixel centers at
integers (OpenCV). `a <- b` names a 3x3 matrix that maps homogeneous points of b to points of a. Scene
coordinates are the units of `backdrop.render.street`. Boxes are (cx, cy, w, h) in image coordinates: the outer
edges of the image are -1 and 1, w and h are full extents (w = 2 spans the image). Masks: 1 means subject.

Truth: background is everything but the subject, so also its shadow, a bystander, swaying trees and clouds.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from backdrop.errors import BackdropError
from backdrop.render.camera import Motion, normalized
from backdrop.render.layers import bounds, clip_to_bytes, coverage_of, warp_layer
from backdrop.render.person import make_subject
from backdrop.render.scene import FIRST_PART, SHADOW, Place, Scene

MODES = ("static", "ptz", "handheld")

_SHUTTER = 0.5  # exposure as a share of the frame interval (a 180 degree shutter)

_EXPOSURES = 4  # instants that are averaged for motion blur


class Clip:
    """One clip of embedded footage.

    Args:
        seed: trajectories of camera and subject, sensor noise.
        mode: one of `MODES`.
        size: (W, H) of the frames in pixels; H >= 48, W >= H.
        frames: number of frames, >= 1.
        fps: frames per second, only passed on (motion is defined per frame).
        subject: who moves; other numbers have other clothes, proportions and gait.
        town: seed of the scene's palette.
        stretch: stretch of the town's street; other numbers have other houses, trees, paving.
        noise: add sensor noise and a drift of the exposure.
        blur: average the motion over the exposure.
        distractors: trees sway, clouds drift and a bystander stands there.
        presence: the subject is out of view at the beginning or the end of the clip.
        rests: the subject walks in and stands from a quarter of the clip on.

    Raises:
        BackdropError: unknown mode or a size or length that cannot be rendered.
    """

    def __init__(
        self,
        seed: int,
        mode: str,
        size: tuple[int, int] = (320, 192),
        frames: int = 100,
        *,
        fps: float = 24.0,
        subject: int = 0,
        town: int = 0,
        stretch: int = 0,
        noise: bool = True,
        blur: bool = True,
        distractors: bool = True,
        presence: bool = False,
        rests: bool = False,
    ) -> None:
        if mode not in MODES:
            raise BackdropError(f"footage: unknown camera mode {mode!r}; modes are {', '.join(MODES)}")
        if size[1] < 48 or size[0] < size[1] or frames < 1:
            raise BackdropError(
                f"footage: cannot render {frames} frames of {size[0]}x{size[1]}; "
                "use at least 1 frame, a height of at least 48 and a width of at least the height"
            )
        self.seed, self.mode, self.size, self.frames, self.fps = seed, mode, size, frames, fps
        self.noise, self.blur = noise, blur
        mover = make_subject(subject, size[1] / 192.0)
        motion = Motion(seed, mode, size, frames=frames, subject=mover, presence=presence, rests=rests)
        self._scene = Scene(Place(seed, town, stretch), motion, subject, distractors)

    def __len__(self) -> int:
        return self.frames

    # ------------------------------------------------------------------------------------------ pictures

    def frame(self, t: int) -> np.ndarray:
        """Frame t as (H, W, 3) uint8 RGB, with blur and noise as the clip's options say."""
        count = _EXPOSURES if self.blur else 1
        total = np.zeros((self.size[1], self.size[0], 3), np.float32)
        for index in range(count):
            total += self._scene.draw(t + _SHUTTER * ((index + 0.5) / count - 0.5), subject=True)
        return self._sense(total / np.float32(count), t)

    def background(self, t: int) -> np.ndarray:
        """(H, W, 3) uint8 RGB: frame t without subject and shadow, blur and noise."""
        return clip_to_bytes(self._scene.draw(t, subject=False))

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self.frame(t) for t in range(self.frames))

    # ------------------------------------------------------------------------------------------ truth

    def mask(self, t: int) -> np.ndarray:
        """(H, W) bool, 1 = subject: more than half of the pixel is covered at mid-exposure, unblurred."""
        coverage = coverage_of(self._scene.figure(t), self.size)
        return coverage.sum(axis=0) > 0.5

    def box(self, t: int) -> np.ndarray:
        """(4,) float64 (cx, cy, w, h) of the mask in [-1, 1] image coordinates; NaN if the mask is empty."""
        return mask_box(self.mask(t))

    def scene(self, t: int) -> np.ndarray:
        """(3, 3) float64 scene <- frame t, on the plane of the facades; bottom right entry 1."""
        return normalized(np.linalg.inv(self._scene.motion.camera(t).wall(1.0)))

    def homography(self, source: int, target: int) -> np.ndarray:
        """(3, 3) float64 frame target <- frame source of the (dominant) background plane; last entry 1."""
        camera = self._scene.motion.camera
        return normalized(camera(target).wall(1.0) @ np.linalg.inv(camera(source).wall(1.0)))

    def labels(self, t: int) -> np.ndarray:
        """(H, W) int16: what is seen at each pixel of frame t, unblurred.

        0 facades, hills and sky (in static and ptz mode also ground and fence), 1 ground, 2 fence,
        3.. trees and the bystander, 100.. the subject's parts in painting order.
        """
        labels = np.zeros((self.size[1], self.size[0]), np.int16)
        for layer in self._scene.scenery(t):
            box = bounds(layer, self.size)
            if box is not None and layer.label != SHADOW:
                patch = warp_layer(layer, box, 1)
                labels[box[1] : box[3], box[0] : box[2]][patch[..., 3] > 0.5] = layer.label
        coverage = coverage_of(self._scene.figure(t), self.size)
        seen = coverage.sum(axis=0) > 0.5
        labels[seen] = FIRST_PART + coverage.argmax(axis=0)[seen]
        return labels

    def flow(self, t: int, other: int) -> tuple[np.ndarray, np.ndarray]:
        """Exact flow from frame t to frame `other`.

        Returns:
            (H, W, 2) float32 in pixels: p in frame t is found at p + flow in frame `other`. Everything
            moves rigidly with its plane or part; clouds and shadow are left out (their pixels move as what
            they cover). (H, W) bool, 1 = occluded: out of view, or hidden by something else in frame
            `other`.
        """
        labels, there = self.labels(t), self.labels(other)
        here_by, there_by = self._scene.matrices(t), self._scene.matrices(other)
        width, height = self.size
        ys, xs = np.mgrid[0:height, 0:width].astype(np.float64)
        flow = np.zeros((height, width, 2), np.float64)
        for label in np.unique(labels):
            matrix = there_by[int(label)] @ np.linalg.inv(here_by[int(label)])
            at = labels == label
            x, y, w = matrix @ np.stack([xs[at], ys[at], np.ones(int(at.sum()))])
            flow[at] = np.stack([x / w - xs[at], y / w - ys[at]], axis=1)
        column, row = (np.rint(xs + flow[..., 0]).astype(int), np.rint(ys + flow[..., 1]).astype(int))
        inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        found = there[np.clip(row, 0, height - 1), np.clip(column, 0, width - 1)]
        return flow.astype(np.float32), ~inside | (found != labels)

    def _sense(self, picture: np.ndarray, t: int) -> np.ndarray:
        """Exposure drift, sensor noise that grows with the light, and rounding."""
        if self.noise:
            rng = np.random.default_rng([self.seed, 51, t])
            picture = picture * self._scene.motion.gain(t)
            spread = 1.0 + 0.1 * np.sqrt(np.clip(picture, 0, 255))
            picture = picture + spread * rng.standard_normal(picture.shape, np.float32)
        return clip_to_bytes(picture)


def mask_box(mask: np.ndarray) -> np.ndarray:
    """(4,) float64 (cx, cy, w, h) in [-1, 1] image coordinates of a (H, W) bool mask; NaN if empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return np.full(4, np.nan)
    low = np.array([columns[0], rows[0]]) / mask.shape[::-1] * 2 - 1
    high = np.array([columns[-1] + 1, rows[-1] + 1]) / mask.shape[::-1] * 2 - 1
    return np.concatenate([(low + high) / 2, high - low])
