"""Random subjects: bodies with limbs, vehicles, blobs; all of textured parts that swing about joints."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import cv2
import numpy as np
from jaxtyping import Float, Float32

from backdrop.collage.textures import outline, random_texture, sprite

SIDE = 160
"""Texels of a part's sprite along each side; the joint is its center."""

MOST_RADIUS = 70.0
"""Larger subjects are enlarged when they are painted."""

Brush = Callable[[np.ndarray], object]


@dataclass
class Part:
    """A sprite that swings about its joint.

    Attributes:
        joint: place on the body, in texels from its center.
        turn: angle at rest in radians; swing: amplitude; rate: radians a frame; phase: at frame 0.
    """

    sprite: Float32[np.ndarray, "s s 4"]
    joint: Float[np.ndarray, "2"]
    turn: float
    swing: float
    rate: float
    phase: float


@dataclass
class Body:
    """A subject of about `radius` pixels."""

    radius: float
    parts: list[Part] = field(default_factory=list)

    def matrices(
        self, center: Float[np.ndarray, "2"], angle: float, scale: float, t: float
    ) -> list[Float[np.ndarray, "2 3"]]:
        """Image pixels <- sprite texels, for each part, in the order of painting."""
        scale *= self.radius / min(self.radius, MOST_RADIUS)
        found = []
        for part in self.parts:
            place = center + scale * _turned(angle) @ part.joint
            turned = scale * _turned(angle + part.turn + part.swing * np.sin(part.rate * t + part.phase))
            found.append(np.hstack([turned, (place - turned @ [SIDE / 2, SIDE / 2])[:, None]]))
        return found


def _turned(angle: float) -> Float[np.ndarray, "2 2"]:
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


class _Builder:
    """Adds parts to a body; half of them wear the body's texture."""

    def __init__(self, rng: np.random.Generator, radius: float) -> None:
        self.rng, self.body = rng, Body(radius)
        self.common = random_texture(rng, (SIDE, SIDE))

    def add(self, draw: Brush, joint: tuple[float, float], turn: float, swing: float) -> None:
        rng = self.rng
        mask = np.zeros((SIDE, SIDE), np.uint8)
        draw(mask)
        picture = self.common if rng.random() < 0.5 else random_texture(rng, (SIDE, SIDE))
        rate, phase = np.exp(rng.uniform(np.log(0.15), np.log(1.3))), rng.uniform(0, 2 * np.pi)
        self.body.parts.append(Part(sprite(picture, mask), np.array(joint, float), turn, swing, rate, phase))

    def blob(self, radius: float) -> Brush:
        points = (outline(self.rng, radius) + SIDE / 2).astype(np.int32)
        return lambda mask: cv2.fillPoly(mask, [points], 255)


def _limb(length: float, width: float, taper: float) -> Brush:
    """A limb that hangs down from its joint."""

    def draw(mask: np.ndarray) -> None:
        for along in np.linspace(0, 1, 24):
            center = (SIDE // 2, int(SIDE / 2 + along * length))
            cv2.circle(mask, center, max(1, int(width * (1 - taper * along))), 255, -1)

    return draw


def _polygon(points: np.ndarray) -> Brush:
    return lambda mask: cv2.fillPoly(mask, [(points + SIDE / 2).astype(np.int32)], 255)


def random_body(rng: np.random.Generator, radius: float) -> Body:
    """A body with limbs and perhaps a head, a vehicle, or a blob.

    Args:
        radius: about half its extent, in pixels.
    """
    build, size, kind = _Builder(rng, radius), min(radius, MOST_RADIUS), rng.random()
    if kind < 0.45:
        _animal(build, size)
    elif kind < 0.75:
        _vehicle(build, size)
    else:
        build.add(build.blob(size * 0.8), (0, 0), 0, 0.03)
        for _ in range(rng.integers(0, 3)):
            x, y = rng.normal(0, size * 0.6, 2)
            build.add(build.blob(size * 0.3), (x, y), 0, 0.3)
    return build.body


def _animal(build: _Builder, size: float) -> None:
    rng = build.rng
    build.add(build.blob(size * 0.45), (0, 0), 0, 0.05)
    for _ in range(rng.integers(2, 7)):
        angle, length = rng.uniform(0, 2 * np.pi), size * rng.uniform(0.4, 1.0)
        draw = _limb(min(length, 75), max(1.5, size * rng.uniform(0.06, 0.2)), rng.uniform(0, 0.6))
        joint = (np.cos(angle) * size * 0.3, np.sin(angle) * size * 0.3)
        build.add(draw, joint, angle - np.pi / 2, rng.uniform(0, 0.8))
    if rng.random() < 0.7:
        build.add(build.blob(size * 0.2), (rng.normal(0, size * 0.15), -size * 0.6), 0, 0.1)


def _vehicle(build: _Builder, size: float) -> None:
    rng = build.rng
    w, h = size * rng.uniform(0.5, 1.0), size * rng.uniform(0.25, 0.6)
    front, back = rng.uniform(0.2, 0.8, 2)
    low, high = rng.uniform(0, 0.6, 2)
    corners = [(-w, h), (-w, -h * low), (-w * back, -h), (w * front, -h), (w, -h * high), (w, h)]
    build.add(_polygon(np.array(corners)), (0, 0), 0, 0)
    for x in (-0.6, 0.6):
        build.add(build.blob(h * 0.4), (w * x, h), 0, rng.uniform(0, 1.5))
    if rng.random() < 0.4:
        build.add(build.blob(size * 0.3), (rng.normal(0, w * 0.3), -h - size * 0.2), 0, 0.2)
