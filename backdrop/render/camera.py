"""Trajectories of the rendered camera and subject."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from backdrop.render.painting import BASE, EYE, FOCAL
from backdrop.render.person import Subject

_TABLE_MARGIN = 80  # frames before and after the clip for which trajectories are tabulated

_TABLE_STEPS = 4  # table entries per frame


@dataclass(frozen=True)
class Camera:
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
class SubjectState:
    """The subject at one instant: scene x on its own plane, gait cycles, facing in [-1, 1]."""

    x: float
    phase: float
    facing: float


class Motion:
    """Trajectories of the camera and the subject, as smooth functions of time (in frames)."""

    def __init__(
        self,
        seed: int,
        mode: str,
        size: tuple[int, int],
        *,
        frames: int,
        subject: Subject,
        presence: bool,
        rests: bool = False,
    ) -> None:
        rng = np.random.default_rng([seed, 31])
        self.mode, self.size, self.scale = mode, size, size[1] / 192.0
        self.half = size[0] / self.scale / 2
        self.middle = float(rng.uniform(-70, 70))
        self.foot = subject.height * float(rng.uniform(0.92, 1.0))
        self.drift = float(rng.uniform(0.12, 0.3) * rng.choice([-1, 1]))
        self._waves = rng.uniform(0, 2 * np.pi, (64,))
        self._rates = rng.uniform(0.85, 1.2, (64,))
        self._times = (
            np.arange(-_TABLE_MARGIN * _TABLE_STEPS, (frames + _TABLE_MARGIN) * _TABLE_STEPS + 1) / _TABLE_STEPS
        )
        self._tabulate_subject(rng, subject, frames, presence, rests)
        self._zoom = float(rng.uniform(0.98, 1.07))
        self._eye_y = self.foot - subject.height * 0.62

    def _tabulate_subject(
        self, rng: np.random.Generator, subject: Subject, frames: int, presence: bool, rests: bool
    ) -> None:
        """Back and forth at nearly constant speed with soft turns; the gait follows the distance walked."""
        reach = {"static": self.half - 58, "ptz": self.half + 50, "handheld": self.half + 10}[self.mode]
        reach *= float(rng.uniform(0.9, 1.05))
        rate = np.pi * subject.speed / (2 * reach)
        angle = rate * self._times + rng.uniform(0, 2 * np.pi)
        angle = angle + 0.25 * np.sin(0.45 * angle + rng.uniform(0, 2 * np.pi))
        wanted = self.middle + reach * 2 / np.pi * np.arcsin(0.97 * np.sin(angle))
        self._aim = np.interp(self._times - 3.0, self._times, _blurred(wanted, 7 * _TABLE_STEPS))
        if presence:
            side = float(rng.choice([-1, 1]))
            away = 2.6 * self.half * (1 if rng.random() < 0.5 else -1)
            # Out of view for about the first (or last) quarter, then on its usual way.
            ramp = np.clip((side * (self._times - frames / 2) - frames * 0.05) / (0.35 * frames), 0, 1)
            wanted = wanted + away * ramp * ramp * (3 - 2 * ramp)
        if rests:
            # Walks in from beside the image, slows down, and stands there from a quarter of the clip on.
            side = float(rng.choice([-1, 1]))
            left = np.maximum(0.25 * frames - self._times, 0)
            wanted = self.middle - side * (0.3 * self.half - subject.speed * (left - 8 * np.tanh(left / 8)))
            self._aim = np.full_like(wanted, self.middle)
        self._x = wanted
        speed = np.gradient(wanted, self._times)
        steps = np.abs(speed) if subject.gait != "dance" else np.ones_like(speed)
        self._phase = np.cumsum(steps) / _TABLE_STEPS * subject.rhythm
        if rests:  # nobody stands like a stone: limbs stir by a few hundredths of a step
            self._phase += 0.03 * np.sin(0.21 * self._times) * np.sin(0.05 * self._times)
        self._facing = np.tanh(_blurred(speed, 2 * _TABLE_STEPS) / 1.6)

    def state(self, time: float) -> SubjectState:
        x, phase, facing = (
            float(np.interp(time, self._times, table)) for table in (self._x, self._phase, self._facing)
        )
        return SubjectState(x, phase, facing)

    def camera(self, time: float) -> Camera:
        """The camera at an instant; see `Camera`."""
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
        return Camera(self._intrinsics(zoom) @ _rotation(pan, tilt, roll), center, self.middle)

    def _intrinsics(self, zoom: float) -> np.ndarray:
        width, height = self.size
        focal = FOCAL * zoom * self.scale
        return np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1.0]])

    def _wave(self, index: int, rate: float, time: float) -> float:
        """A slow sine in [-1, 1]; `rate` in radians per frame, varied by the seed."""
        return float(np.sin(rate * self._rates[index] * time + self._waves[index]))

    def _shake(self, index: int, time: float) -> float:
        """Tremor in pixels of about 1 (up to 4): sines of 0.3 to 1.5 radians per frame."""
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


def normalized(matrix: np.ndarray) -> np.ndarray:
    return matrix / matrix[2, 2]
