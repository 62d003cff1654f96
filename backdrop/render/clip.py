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
coordinates are the units of `backdrop.scenery`. Boxes are (cx, cy, w, h) in image coordinates: the outer
edges of the image are -1 and 1, w and h are full extents (w = 2 spans the image). Masks: 1 means subject.

Truth: background is everything but the subject, so also its shadow, a bystander, swaying trees and clouds.
"""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np

from backdrop.errors import BackdropError
from backdrop.render.camera import Motion, normalized
from backdrop.render.layers import (
    FINE,
    Layer,
    average,
    bounds,
    clip_to_bytes,
    paste_group,
    paste_layer,
    union,
    warp_layer,
)
from backdrop.render.painting import BASE, Sprite
from backdrop.render.person import Subject, make_subject, pose, snapshot
from backdrop.render.street import Tree, paint_flat, paint_world

MODES = ("static", "ptz", "handheld")

_SHUTTER = 0.5  # exposure as a share of the frame interval (a 180 degree shutter)

_EXPOSURES = 4  # instants that are averaged for motion blur

_SHADOW = -1  # label of what darkens without hiding

_PART = 100  # first label of the subject's parts

_WALKER = 90000  # bystanders are numbered from here in steps of 3, so that all have the calm gait


class Clip:
    """One clip of embedded footage.

    Args:
        seed: trajectories of camera and subject, sensor noise.
        mode: one of `MODES`.
        size: (W, H) of the frames in pixels; H >= 48, W >= H.
        frames: number of frames, >= 1.
        fps: frames a second, only passed on (motion is defined per frame).
        subject: who moves; other numbers have other clothes, proportions and gait.
        town: seed of the scene's palette.
        stretch: stretch of the town's street; other numbers have other houses, trees, paving.
        noise: add sensor noise and a drift of the exposure.
        blur: average the motion over the exposure.
        distractors: trees sway, clouds drift and a bystander stands there.
        presence: the subject is out of view at the beginning or the end of the clip.

    Raises:
        BackdropError: unknown mode or a size or length that cannot be rendered.
    """

    def __init__(
        self,
        seed: int,
        mode: str,
        size: tuple[int, int] = (320, 192),
        frames: int = 100,
        fps: float = 24.0,
        subject: int = 0,
        *,
        town: int = 0,
        stretch: int = 0,
        noise: bool = True,
        blur: bool = True,
        distractors: bool = True,
        presence: bool = False,
    ) -> None:
        if mode not in MODES:
            raise BackdropError(f"footage: unknown camera mode {mode!r}; modes are {', '.join(MODES)}")
        if size[1] < 48 or size[0] < size[1] or frames < 1:
            raise BackdropError(
                f"footage: cannot render {frames} frames of {size[0]}x{size[1]}; "
                "use at least 1 frame, a height of at least 48 and a width of at least the height"
            )
        self.seed, self.mode, self.size, self.frames, self.fps = seed, mode, size, frames, fps
        self.noise, self.blur, self.distractors = noise, blur, distractors
        self._scale = size[1] / 192.0
        self._world = paint_world(town, stretch, self._scale)
        self._parallax = mode == "handheld"
        self._base = self._world.wall if self._parallax else paint_flat(town, stretch, self._scale)
        self.subject: Subject = make_subject(subject, self._scale)
        self._motion = Motion(seed, mode, size, frames, self.subject, presence)
        self._bystander = self._place_bystander(subject, stretch)
        self._shadow = _shadow(self._scale)

    def __len__(self) -> int:
        return self.frames

    # ------------------------------------------------------------------------------------------ pictures

    def frame(self, t: int) -> np.ndarray:
        """Frame t as (H, W, 3) uint8 RGB, with blur and noise as the clip's options say."""
        count = _EXPOSURES if self.blur else 1
        total = np.zeros((self.size[1], self.size[0], 3), np.float32)
        for index in range(count):
            total += self._draw(t + _SHUTTER * ((index + 0.5) / count - 0.5), subject=True)
        return self._sense(total / np.float32(count), t)

    def background(self, t: int) -> np.ndarray:
        """(H, W, 3) uint8 RGB: frame t without subject and shadow, blur and noise."""
        return clip_to_bytes(self._draw(t, subject=False))

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self.frame(t) for t in range(self.frames))

    # ------------------------------------------------------------------------------------------ truth

    def mask(self, t: int) -> np.ndarray:
        """(H, W) bool, 1 = subject: more than half of the pixel is covered at mid-exposure, unblurred."""
        coverage = self._coverage(t)
        return coverage.sum(axis=0) > 0.5

    def box(self, t: int) -> np.ndarray:
        """(4,) float64 (cx, cy, w, h) of the mask in [-1, 1] image coordinates; NaN if the mask is empty."""
        return mask_box(self.mask(t))

    def scene(self, t: int) -> np.ndarray:
        """(3, 3) float64 scene <- frame t, on the plane of the facades; bottom right entry 1."""
        return normalized(np.linalg.inv(self._motion.camera(t).wall(1.0)))

    def homography(self, source: int, target: int) -> np.ndarray:
        """(3, 3) float64 frame target <- frame source of the (dominant) background plane; last entry 1."""
        camera = self._motion.camera
        return normalized(camera(target).wall(1.0) @ np.linalg.inv(camera(source).wall(1.0)))

    def labels(self, t: int) -> np.ndarray:
        """(H, W) int16: what is seen at each pixel of frame t, unblurred.

        0 facades, hills and sky (in static and ptz mode also ground and fence), 1 ground, 2 fence,
        3.. trees and the bystander, 100.. the subject's parts in painting order.
        """
        labels = np.zeros((self.size[1], self.size[0]), np.int16)
        for layer in self._scenery(t):
            box = bounds(layer, self.size)
            if box is not None and layer.label != _SHADOW:
                patch = warp_layer(layer, box, 1)
                labels[box[1] : box[3], box[0] : box[2]][patch[..., 3] > 0.5] = layer.label
        coverage = self._coverage(t)
        seen = coverage.sum(axis=0) > 0.5
        labels[seen] = _PART + coverage.argmax(axis=0)[seen]
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
        here_by, there_by = self._matrices(t), self._matrices(other)
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

    # ------------------------------------------------------------------------------------------ drawing

    def _draw(self, time: float, subject: bool) -> np.ndarray:
        """(H, W, 3) float32 view at one instant."""
        camera = self._motion.camera(time)
        view = cv2.warpPerspective(
            self._base.image,
            camera.wall(1.0) @ self._base.texels,
            self.size,
            flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REPLICATE,
        )
        picture, sky = np.ascontiguousarray(view[..., :3]), view[..., 3]
        self._draw_clouds(picture, sky, time)
        for layer in self._scenery(time):
            paste_layer(picture, layer, self.size)
        if subject:
            state, foot = self._motion.state(time), self._motion.foot
            paste_layer(picture, self._shadow_layer(time, state.x, foot, self.subject.height), self.size)
            paste_group(picture, self._figure(time), self.size)
        return picture

    def _draw_clouds(self, picture: np.ndarray, sky: np.ndarray, time: float) -> None:
        rows = int(np.flatnonzero(sky.max(axis=1) > 0.004)[-1]) + 1 if sky.max() > 0.004 else 0
        if not rows:
            return
        drift = np.eye(3)
        drift[0, 2] = self._motion.drift * time * self.distractors
        clouds = self._world.clouds
        layer = Layer(0, clouds, self._motion.camera(time).wall(1.0) @ drift)
        patch = warp_layer(layer, (0, 0, self.size[0], rows), 1)
        patch *= sky[:rows, :, None]
        picture[:rows] *= 1 - patch[..., 3:]
        picture[:rows] += patch[..., :3]

    def _scenery(self, time: float) -> list[Layer]:
        """Layers before the base picture, farthest first."""
        camera, world = self._motion.camera(time), self._world
        layers = []
        if self._parallax:
            layers = [
                Layer(1, world.ground, camera.ground()),
                Layer(2, world.fence, camera.wall(BASE / world.fence_y)),
            ]
        for index, tree in enumerate(world.trees):
            sway = self._motion.sway(index, time) * self.distractors
            layers.append(Layer(3 + index, tree.sprite, camera.wall(BASE / tree.y) @ _planted(tree, sway)))
        if self.distractors:
            tree = self._bystander
            matrix = camera.wall(BASE / tree.y) @ _planted(tree, 0.0)
            height = self.subject.height * tree.y / self._motion.foot
            layers.append(self._shadow_layer(time, tree.x, tree.y, height))
            layers.append(Layer(3 + len(world.trees), tree.sprite, matrix))
        return layers

    def _figure(self, time: float) -> list[Layer]:
        """The subject's parts in painting order."""
        state = self._motion.state(time)
        frames = pose(self.subject, state.phase, state.facing)
        place = np.array([[1, 0, state.x], [0, 1, self._motion.foot], [0, 0, 1.0]])
        plane = self._motion.camera(time).wall(BASE / self._motion.foot) @ place
        return [
            Layer(_PART + index, part.sprite, plane @ frames[part.name])
            for index, part in enumerate(self.subject.parts)
        ]

    def _shadow_layer(self, time: float, x: float, y: float, height: float) -> Layer:
        """The soft shadow on the ground of a person of some height who stands at (x, y)."""
        place = np.array([[0.3 * height, 0, x + 0.12 * height], [0, 0.055 * height, y - 1.0], [0, 0, 1.0]])
        return Layer(_SHADOW, self._shadow, self._motion.camera(time).ground() @ place)

    def _place_bystander(self, subject: int, stretch: int) -> Tree:
        """A person who stands by the path, smaller because farther away."""
        rng = np.random.default_rng([self.seed, 41])
        other = make_subject(_WALKER + 3 * (31 * stretch + subject % 5), self._scale)
        y = float(rng.uniform(62, 68))
        ratio = y / self._motion.foot
        sprite = snapshot(other, 0.04, self._scale)
        small = Sprite(sprite.image, np.diag([ratio, ratio, 1.0]) @ sprite.texels)
        return Tree(small, self._motion.middle + float(rng.choice([-1, 1]) * rng.uniform(35, 95)), y)

    def _matrices(self, t: int) -> dict[int, np.ndarray]:
        """pixels <- local coordinates for every label."""
        matrices = {0: self._motion.camera(t).wall(1.0)}
        return matrices | {layer.label: layer.matrix for layer in (*self._scenery(t), *self._figure(t))}

    def _coverage(self, t: int) -> np.ndarray:
        """(parts, H, W) float32: the share of each pixel in which the part is the foremost."""
        layers = self._figure(t)
        shares = np.zeros((len(layers), self.size[1], self.size[0]), np.float32)
        box = union([bounds(layer, self.size) for layer in layers])
        if box is None:
            return shares
        shape = ((box[3] - box[1]) * FINE, (box[2] - box[0]) * FINE)
        free = np.ones(shape, np.float32)
        for index in range(len(layers) - 1, -1, -1):
            part = bounds(layers[index], self.size)
            if part is None:
                continue
            alpha = warp_layer(layers[index], part, FINE)[..., 3]
            rows = slice((part[1] - box[1]) * FINE, (part[3] - box[1]) * FINE)
            columns = slice((part[0] - box[0]) * FINE, (part[2] - box[0]) * FINE)
            seen = free[rows, columns] * alpha
            free[rows, columns] -= seen
            shares[index, part[1] : part[3], part[0] : part[2]] = average(seen, FINE)
        return shares

    def _sense(self, picture: np.ndarray, t: int) -> np.ndarray:
        """Exposure drift, sensor noise that grows with the light, and rounding."""
        if self.noise:
            rng = np.random.default_rng([self.seed, 51, t])
            picture = picture * self._motion.gain(t)
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


def _planted(tree: Tree, sway: float) -> np.ndarray:
    """scene <- local coordinates of a thing that stands at its foot and is sheared by the wind."""
    return np.array([[1, sway, tree.x], [0, 1, tree.y], [0, 0, 1.0]])


def _shadow(scale: float) -> Sprite:
    """A soft dark disk of radius 1 (local units), black with a bell-shaped alpha."""
    count = max(16, int(24 * scale))
    axis = np.linspace(-1, 1, count, dtype=np.float32)
    square = axis[None, :] ** 2 + axis[:, None] ** 2
    image = np.zeros((count, count, 4), np.float32)
    image[..., 3] = 0.5 * np.clip(1 - square, 0, 1) ** 1.5
    step = 2 / (count - 1)
    return Sprite(image, np.array([[step, 0, -1], [0, step, -1], [0, 0, 1.0]]))
