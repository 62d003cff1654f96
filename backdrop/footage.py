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

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from backdrop.errors import BackdropError
from backdrop.figure import Subject, make_subject, pose, snapshot
from backdrop.processes import each
from backdrop.scenery import BASE, EYE, FOCAL, Sprite, Tree, paint_flat, paint_world
from backdrop.video import ArchiveWriter, encode_png, encode_video

MODES = ("static", "ptz", "handheld")
_SHUTTER = 0.5  # exposure as a share of the frame interval (a 180 degree shutter)
_EXPOSURES = 4  # instants that are averaged for motion blur
_FINE = 4  # samples a pixel and axis of the exact mask
_MARGIN = 80  # frames before and after the clip for which trajectories are tabulated
_STEPS = 4  # table entries a frame
_SHADOW = -1  # label of what darkens without hiding
_PART = 100  # first label of the subject's parts
_WALKER = 90000  # bystanders are numbered from here in steps of 3, so that all have the calm gait


@dataclass(frozen=True)
class _Layer:
    """A sprite and where it stands in one frame: `matrix` is pixels <- the sprite's local coordinates."""

    label: int
    sprite: Sprite
    matrix: np.ndarray


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
        self._motion = _Motion(seed, mode, size, frames, self.subject, presence)
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
        return _to_bytes(self._draw(t, subject=False))

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
        return _normalized(np.linalg.inv(self._motion.camera(t).wall(1.0)))

    def homography(self, source: int, target: int) -> np.ndarray:
        """(3, 3) float64 frame target <- frame source of the (dominant) background plane; last entry 1."""
        camera = self._motion.camera
        return _normalized(camera(target).wall(1.0) @ np.linalg.inv(camera(source).wall(1.0)))

    def labels(self, t: int) -> np.ndarray:
        """(H, W) int16: what is seen at each pixel of frame t, unblurred.

        0 facades, hills and sky (in static and ptz mode also ground and fence), 1 ground, 2 fence,
        3.. trees and the bystander, 100.. the subject's parts in painting order.
        """
        labels = np.zeros((self.size[1], self.size[0]), np.int16)
        for layer in self._scenery(t):
            box = _bounds(layer, self.size)
            if box is not None and layer.label != _SHADOW:
                patch = _warp(layer, box, 1)
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
            _paste(picture, layer, self.size)
        if subject:
            state, foot = self._motion.state(time), self._motion.foot
            _paste(picture, self._shadow_layer(time, state.x, foot, self.subject.height), self.size)
            _paste_group(picture, self._figure(time), self.size)
        return picture

    def _draw_clouds(self, picture: np.ndarray, sky: np.ndarray, time: float) -> None:
        rows = int(np.flatnonzero(sky.max(axis=1) > 0.004)[-1]) + 1 if sky.max() > 0.004 else 0
        if not rows:
            return
        drift = np.eye(3)
        drift[0, 2] = self._motion.drift * time * self.distractors
        clouds = self._world.clouds
        layer = _Layer(0, clouds, self._motion.camera(time).wall(1.0) @ drift)
        patch = _warp(layer, (0, 0, self.size[0], rows), 1)
        patch *= sky[:rows, :, None]
        picture[:rows] *= 1 - patch[..., 3:]
        picture[:rows] += patch[..., :3]

    def _scenery(self, time: float) -> list[_Layer]:
        """Layers before the base picture, farthest first."""
        camera, world = self._motion.camera(time), self._world
        layers = []
        if self._parallax:
            layers = [
                _Layer(1, world.ground, camera.ground()),
                _Layer(2, world.fence, camera.wall(BASE / world.fence_y)),
            ]
        for index, tree in enumerate(world.trees):
            sway = self._motion.sway(index, time) * self.distractors
            layers.append(_Layer(3 + index, tree.sprite, camera.wall(BASE / tree.y) @ _planted(tree, sway)))
        if self.distractors:
            tree = self._bystander
            matrix = camera.wall(BASE / tree.y) @ _planted(tree, 0.0)
            height = self.subject.height * tree.y / self._motion.foot
            layers.append(self._shadow_layer(time, tree.x, tree.y, height))
            layers.append(_Layer(3 + len(world.trees), tree.sprite, matrix))
        return layers

    def _figure(self, time: float) -> list[_Layer]:
        """The subject's parts in painting order."""
        state = self._motion.state(time)
        frames = pose(self.subject, state.phase, state.facing)
        place = np.array([[1, 0, state.x], [0, 1, self._motion.foot], [0, 0, 1.0]])
        plane = self._motion.camera(time).wall(BASE / self._motion.foot) @ place
        return [
            _Layer(_PART + index, part.sprite, plane @ frames[part.name])
            for index, part in enumerate(self.subject.parts)
        ]

    def _shadow_layer(self, time: float, x: float, y: float, height: float) -> _Layer:
        """The soft shadow on the ground of a person of some height who stands at (x, y)."""
        place = np.array([[0.3 * height, 0, x + 0.12 * height], [0, 0.055 * height, y - 1.0], [0, 0, 1.0]])
        return _Layer(_SHADOW, self._shadow, self._motion.camera(time).ground() @ place)

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
        box = _union([_bounds(layer, self.size) for layer in layers])
        if box is None:
            return shares
        shape = ((box[3] - box[1]) * _FINE, (box[2] - box[0]) * _FINE)
        free = np.ones(shape, np.float32)
        for index in range(len(layers) - 1, -1, -1):
            part = _bounds(layers[index], self.size)
            if part is None:
                continue
            alpha = _warp(layers[index], part, _FINE)[..., 3]
            rows = slice((part[1] - box[1]) * _FINE, (part[3] - box[1]) * _FINE)
            columns = slice((part[0] - box[0]) * _FINE, (part[2] - box[0]) * _FINE)
            seen = free[rows, columns] * alpha
            free[rows, columns] -= seen
            shares[index, part[1] : part[3], part[0] : part[2]] = _average(seen, _FINE)
        return shares

    def _sense(self, picture: np.ndarray, t: int) -> np.ndarray:
        """Exposure drift, sensor noise that grows with the light, and rounding."""
        if self.noise:
            rng = np.random.default_rng([self.seed, 51, t])
            picture = picture * self._motion.gain(t)
            spread = 1.0 + 0.1 * np.sqrt(np.clip(picture, 0, 255))
            picture = picture + spread * rng.standard_normal(picture.shape, np.float32)
        return _to_bytes(picture)


# ---------------------------------------------------------------------------------------------- motion


@dataclass(frozen=True)
class _Camera:
    """A pinhole camera at one instant.

    Attributes:
        project: pixels <- rays of the world (K R).
        center: (3,) optical center in units of the facades' depth.
        axis: scene x of the reference camera's optical axis.
    """

    project: np.ndarray
    center: np.ndarray
    axis: float

    def wall(self, depth: float) -> np.ndarray:
        """pixels <- scene, for the plane that stands upright at a depth (facades: 1)."""
        x, y, z = self.center
        # A ray d from the center C meets the plane at C + (depth - z) / d_z * d.
        meet = np.array([[depth - z, 0, x], [0, depth - z, y], [0, 0, depth]])
        return self.project @ np.linalg.inv(self._reference() @ meet)

    def ground(self) -> np.ndarray:
        """pixels <- scene, for the ground plane (`EYE` below the reference camera)."""
        meet = (EYE - self.center[1]) * np.eye(3)
        meet[:, 1] += self.center
        return self.project @ np.linalg.inv(self._reference() @ meet)

    def _reference(self) -> np.ndarray:
        """scene <- rays from the reference position."""
        return np.array([[FOCAL, 0, self.axis], [0, FOCAL, 0], [0, 0, 1.0]])


@dataclass(frozen=True)
class _State:
    """The subject at one instant: scene x on its own plane, gait cycles, facing in [-1, 1]."""

    x: float
    phase: float
    facing: float


class _Motion:
    """Trajectories of the camera and the subject, as smooth functions of time (in frames)."""

    def __init__(
        self, seed: int, mode: str, size: tuple[int, int], frames: int, subject: Subject, presence: bool
    ) -> None:
        rng = np.random.default_rng([seed, 31])
        self.mode, self.size, self.scale = mode, size, size[1] / 192.0
        self.half = size[0] / self.scale / 2
        self.middle = float(rng.uniform(-70, 70))
        self.foot = subject.height * float(rng.uniform(0.92, 1.0))
        self.drift = float(rng.uniform(0.12, 0.3) * rng.choice([-1, 1]))
        self._waves = rng.uniform(0, 2 * np.pi, (64,))
        self._rates = rng.uniform(0.85, 1.2, (64,))
        self._times = np.arange(-_MARGIN * _STEPS, (frames + _MARGIN) * _STEPS + 1) / _STEPS
        self._tabulate_subject(rng, subject, frames, presence)
        self._zoom = float(rng.uniform(0.98, 1.07))
        self._eye_y = self.foot - subject.height * 0.62

    def _tabulate_subject(self, rng: np.random.Generator, subject: Subject, frames: int, presence: bool) -> None:
        """Back and forth at nearly constant speed with soft turns; the gait follows the distance walked."""
        reach = {"static": self.half - 58, "ptz": self.half + 50, "handheld": self.half + 10}[self.mode]
        reach *= float(rng.uniform(0.9, 1.05))
        rate = np.pi * subject.speed / (2 * reach)
        angle = rate * self._times + rng.uniform(0, 2 * np.pi)
        angle = angle + 0.25 * np.sin(0.45 * angle + rng.uniform(0, 2 * np.pi))
        wanted = self.middle + reach * 2 / np.pi * np.arcsin(0.97 * np.sin(angle))
        self._aim = np.interp(self._times - 3.0, self._times, _blurred(wanted, 7 * _STEPS))
        if presence:
            side = float(rng.choice([-1, 1]))
            away = 2.6 * self.half * (1 if rng.random() < 0.5 else -1)
            # Out of view for about the first (or last) quarter, then on its usual way.
            ramp = np.clip((side * (self._times - frames / 2) - frames * 0.05) / (0.35 * frames), 0, 1)
            wanted = wanted + away * ramp * ramp * (3 - 2 * ramp)
        self._x = wanted
        speed = np.gradient(wanted, self._times)
        steps = np.abs(speed) if subject.gait != "dance" else np.ones_like(speed)
        self._phase = np.cumsum(steps) / _STEPS * subject.rhythm
        self._facing = np.tanh(_blurred(speed, 2 * _STEPS) / 1.6)

    def state(self, time: float) -> _State:
        x, phase, facing = (
            float(np.interp(time, self._times, table)) for table in (self._x, self._phase, self._facing)
        )
        return _State(x, phase, facing)

    def camera(self, time: float) -> _Camera:
        """The camera at an instant; see `_Camera`."""
        aim = float(np.interp(time, self._times, self._aim))
        pan = tilt = roll = 0.0
        center = np.zeros(3)
        zoom, depth = self._zoom, BASE / self.foot
        target = np.array([self.middle, self._eye_y])
        if self.mode != "static":
            lag = 0.93 * (aim - self.middle)
            target = target + (lag + 9 * self._wave(0, 0.045, time), 6 * self._wave(1, 0.06, time))
            zoom *= 1 + 0.06 * self._wave(2, 0.05, time) + 0.02 * self._wave(3, 0.13, time)
            shake = (0.22, 0.55)[self.mode == "handheld"] / FOCAL
            pan, tilt, roll = (shake * self._shake(10 + 8 * axis, time) for axis in range(3))
            roll = roll * 2 + 0.02 * self._wave(4, 0.04, time)
        if self.mode == "handheld":
            step = 0.11 * (aim - self.middle) + 4 * self._wave(5, 0.07, time)
            rise = 0.45 * self._wave(6, 0.28, time)
            center = np.array([step / FOCAL, rise / FOCAL, 0.01 * self._wave(7, 0.05, time)])
        pan += np.arctan((target[0] - self.middle) / FOCAL - center[0] / depth)
        tilt += np.arctan(target[1] / FOCAL)
        return _Camera(self._intrinsics(zoom) @ _rotation(pan, tilt, roll), center, self.middle)

    def _intrinsics(self, zoom: float) -> np.ndarray:
        width, height = self.size
        focal = FOCAL * zoom * self.scale
        return np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1.0]])

    def _wave(self, index: int, rate: float, time: float) -> float:
        """A slow sine in [-1, 1]; `rate` in radians a frame, varied by the seed."""
        return float(np.sin(rate * self._rates[index] * time + self._waves[index]))

    def _shake(self, index: int, time: float) -> float:
        """Tremor in pixels of about 1 (up to 4): sines of 0.3 to 1.5 radians a frame."""
        return sum(self._wave(index + k, 0.3 * (k + 1), time) for k in range(4))

    def sway(self, index: int, time: float) -> float:
        """Shear of a tree (horizontal units for each unit of height)."""
        return 0.022 * self._wave(40 + index % 12, 0.16, time) + 0.008 * self._wave(52 + index % 8, 0.37, time)

    def gain(self, t: int) -> float:
        """Exposure drift as a factor on the picture."""
        return float(np.float32(1 + 0.03 * self._wave(60, 0.06, t) + 0.01 * self._wave(61, 0.17, t)))


def _rotation(pan: float, tilt: float, roll: float) -> np.ndarray:
    """camera <- world rays (x right, y down, z forward); positive pan looks right, tilt down."""
    a, b, c = np.cos(pan), np.cos(tilt), np.cos(roll)
    x, y, z = np.sin(pan), np.sin(tilt), np.sin(roll)
    about_y = np.array([[a, 0, -x], [0, 1, 0], [x, 0, a]])
    about_x = np.array([[1, 0, 0], [0, b, -y], [0, y, b]])
    about_z = np.array([[c, -z, 0], [z, c, 0], [0, 0, 1]])
    return about_z @ about_x @ about_y


def _blurred(values: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian smoothing of a table; ends are held."""
    radius = int(3 * sigma)
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    padded = np.pad(values, radius, mode="edge")
    return np.convolve(padded, kernel / kernel.sum(), mode="valid")


def _normalized(matrix: np.ndarray) -> np.ndarray:
    return matrix / matrix[2, 2]


def mask_box(mask: np.ndarray) -> np.ndarray:
    """(4,) float64 (cx, cy, w, h) in [-1, 1] image coordinates of a (H, W) bool mask; NaN if empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return np.full(4, np.nan)
    low = np.array([columns[0], rows[0]]) / mask.shape[::-1] * 2 - 1
    high = np.array([columns[-1] + 1, rows[-1] + 1]) / mask.shape[::-1] * 2 - 1
    return np.concatenate([(low + high) / 2, high - low])


# ---------------------------------------------------------------------------------------------- painting


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


_Box = tuple[int, int, int, int]


def _bounds(layer: _Layer, size: tuple[int, int]) -> _Box | None:
    """Pixels (x0, y0, x1, y1, end exclusive) that a layer can touch; None if it is out of view."""
    x, y, w = layer.matrix @ layer.sprite.corners()
    if np.any(w <= 0):  # partly behind the camera: no shortcut
        return 0, 0, size[0], size[1]
    x, y = x / w, y / w
    x0, y0 = max(0, int(np.floor(x.min()))), max(0, int(np.floor(y.min())))
    x1, y1 = min(size[0], int(np.ceil(x.max())) + 1), min(size[1], int(np.ceil(y.max())) + 1)
    return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None


def _union(boxes: list[_Box | None]) -> _Box | None:
    known = np.array([box for box in boxes if box is not None])
    if not len(known):
        return None
    low, high = known[:, :2].min(axis=0), known[:, 2:].max(axis=0)
    return int(low[0]), int(low[1]), int(high[0]), int(high[1])


def _warp(layer: _Layer, box: _Box, fine: int) -> np.ndarray:
    """(h * fine, w * fine, 4) float32: the layer inside a box of pixels, `fine` samples a pixel and axis."""
    # Sample s of pixel p lies at p + (s + 0.5) / fine - 0.5.
    crop = np.array([[fine, 0, (0.5 - box[0]) * fine - 0.5], [0, fine, (0.5 - box[1]) * fine - 0.5], [0, 0, 1.0]])
    shape = ((box[2] - box[0]) * fine, (box[3] - box[1]) * fine)
    return cv2.warpPerspective(
        layer.sprite.image,
        crop @ layer.matrix @ layer.sprite.texels,
        shape,
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_CONSTANT,
    )


def _average(image: np.ndarray, fine: int) -> np.ndarray:
    """Mean over the samples of each pixel."""
    return cv2.resize(image, (image.shape[1] // fine, image.shape[0] // fine), interpolation=cv2.INTER_AREA)


def _paste(picture: np.ndarray, layer: _Layer, size: tuple[int, int]) -> None:
    """Paint one layer over a (H, W, 3) float32 picture, in place."""
    box = _bounds(layer, size)
    if box is not None:
        _over(picture[box[1] : box[3], box[0] : box[2]], _warp(layer, box, 1))


def _paste_group(picture: np.ndarray, layers: list[_Layer], size: tuple[int, int]) -> None:
    """Paint layers as one body: composed at 2 samples a pixel, then laid over the picture, in place."""
    box = _union([_bounds(layer, size) for layer in layers])
    if box is None:
        return
    body = np.zeros(((box[3] - box[1]) * 2, (box[2] - box[0]) * 2, 4), np.float32)
    for layer in layers:
        part = _bounds(layer, size)
        if part is not None:
            rows = slice((part[1] - box[1]) * 2, (part[3] - box[1]) * 2)
            _over(body[rows, (part[0] - box[0]) * 2 : (part[2] - box[0]) * 2], _warp(layer, part, 2))
    _over(picture[box[1] : box[3], box[0] : box[2]], _average(body, 2))


def _over(below: np.ndarray, above: np.ndarray) -> None:
    """Porter-Duff over, in place, with premultiplied colors."""
    below *= 1 - above[..., 3:]
    below += above[..., : below.shape[2]]


def _to_bytes(picture: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)


# ---------------------------------------------------------------------------------------------- data set


class FootageSettings(Protocol):
    """What `render_all` reads: see `params.yaml`, section `footage`."""

    size: tuple[int, int]
    fps: float
    frames: int
    train: int
    val: int
    test: int
    modes: list[str]
    seed: int


@dataclass(frozen=True)
class Plan:
    """One clip of the data set: its name, split and the arguments that differ between clips."""

    name: str
    split: str
    seed: int
    mode: str
    subject: int
    stretch: int


_FIRST = {"train": 0, "val": 400, "test": 800}  # subjects and stretches of different splits never meet


def plan_clips(params: FootageSettings) -> list[Plan]:
    """Which clips make up the data set.

    Modes are taken in turn. Every clip has a subject and a stretch of the street of its own.
    """
    plans, modes = [], list(params.modes)
    for split, count in (("train", params.train), ("val", params.val), ("test", params.test)):
        for index in range(count):
            mode = modes[index % len(modes)]
            first = _FIRST[split] + 1200 * params.seed
            seed = 100003 * params.seed + 5 * _FIRST[split] + index
            plans.append(Plan(f"{split}_{index:02d}_{mode}", split, seed, mode, first + index, first + index))
    return plans


def make_clip(plan: Plan, params: FootageSettings) -> Clip:
    """The clip of a plan; all clips of one seed share the town."""
    return Clip(
        plan.seed,
        plan.mode,
        (params.size[0], params.size[1]),
        params.frames,
        params.fps,
        plan.subject,
        town=params.seed,
        stretch=plan.stretch,
    )


def render_all(out_dir: Path | str, params: FootageSettings, workers: int = 1) -> list[Plan]:
    """Render the data set as real video files with its truth.

    Writes `videos/<split>/<sequence>.mp4` (H.264) and `truth/<sequence>.zip` with `masks/%06d.png` (8-bit
    gray, 255 = subject), `boxes.csv` (frame,cx,cy,w,h in [-1, 1], empty fields where no subject is seen)
    and `homographies.npy` ((N, 3, 3) float64, scene <- frame).

    Args:
        out_dir: folder to write into; it is made if missing.
        params: the section `footage` of the parameters.
        workers: processes; 1 renders in this one. The pictures do not depend on it.

    Returns:
        The plans of the clips, in the order of rendering.
    """
    plans = plan_clips(params)
    for _ in each(_render, [(Path(out_dir), plan, params) for plan in plans], workers):
        pass
    return plans


def _render(out_dir: Path, plan: Plan, params: FootageSettings) -> None:
    clip = make_clip(plan, params)
    video = out_dir / "videos" / plan.split / f"{plan.name}.mp4"
    truth = out_dir / "truth" / f"{plan.name}.zip"
    for path in (video, truth):
        path.parent.mkdir(parents=True, exist_ok=True)
    rows = ["frame,cx,cy,w,h"]
    with ArchiveWriter(truth) as archive:
        for t in range(len(clip)):
            mask = clip.mask(t)
            archive.add(f"masks/{t:06d}.png", encode_png(mask.astype(np.uint8) * 255))
            box = mask_box(mask)
            rows.append(f"{t}," + ",".join("" if np.isnan(v) else f"{v:.6f}" for v in box))
        archive.add("boxes.csv", ("\n".join(rows) + "\n").encode())
        buffer = io.BytesIO()
        np.save(buffer, np.stack([clip.scene(t) for t in range(len(clip))]))
        archive.add("homographies.npy", buffer.getvalue())
    encode_video(video, iter(clip), clip.fps, "h264")
