"""The random camera of a collage: it turns, travels, zooms and shakes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

VIEW = (320, 192)
"""Pixels of a frame, (width, height)."""

CANVAS = (520, 340)
"""Texels of a background layer; the view shows its middle at frame 0."""

CLIP_REACH = 40
"""Frames before and after frame 0 that the camera's shake is drawn for."""

Matrix = Float[np.ndarray, "2 3"]


@dataclass
class CollageCamera:
    """Camera motion over frames -`CLIP_REACH` to `CLIP_REACH`.

    Attributes:
        velocity: pixels a frame at depth 1; acceleration: its change.
        shake: offset of each frame, in pixels.
        zoom: log of the scale a frame; roll: radians a frame.
        travel: share of the motion that depends on depth; 0: the camera only turns.
    """

    velocity: Float[np.ndarray, "2"]
    acceleration: Float[np.ndarray, "2"]
    shake: Float[np.ndarray, "n 2"]
    zoom: float
    roll: float
    travel: float

    def offset(self, t: int) -> Float[np.ndarray, "2"]:
        """How far the view has moved over a layer of depth 1 at frame t, in pixels."""
        swept = float(np.clip(t * abs(t) / 8, -8, 8))
        return self.velocity * t + self.acceleration * swept + self.shake[t + CLIP_REACH]

    def matrix(self, t: int, depth: float = 1.0, horizon: float | None = None) -> Matrix:
        """Image pixels <- texels of a layer.

        Args:
            depth: nearness of the layer; 1: the far background.
            horizon: row of the image from which on the layer lies on the ground, nearer toward the bottom.
        """
        zoom, angle = np.exp(self.zoom * t), self.roll * t
        turn = zoom * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        center, margin = np.array(VIEW) / 2, (np.array(CANVAS) - VIEW) / 2
        moved = -self.offset(t)
        shift = moved * depth
        if horizon is not None:
            nearer = moved * self.travel * 1.2 / max(20.0, VIEW[1] - horizon)
            turn = turn @ np.array([[1, nearer[0]], [0, 1 + nearer[1]]])
            shift = shift - nearer * (horizon - center[1])
        return np.hstack([turn, (center - turn @ (center + margin) + shift)[:, None]])


def random_camera(rng: np.random.Generator) -> CollageCamera:
    """Standing, slow or fast; shaking or not; turning only or traveling too."""
    speed = rng.choice([0, 1.0, 4.0, 10.0, 20.0], p=[0.15, 0.25, 0.3, 0.2, 0.1])
    direction = rng.normal(0, 1, 2) * [1, 0.35]
    velocity = direction / (np.linalg.norm(direction) + 1e-6) * speed * rng.uniform(0.3, 1)
    shake = rng.normal(0, 1, (2 * CLIP_REACH + 1, 2)) * rng.choice([0, 0.3, 1.2])
    return CollageCamera(
        velocity,
        rng.normal(0, 0.15, 2) * min(speed, 3),
        shake,
        rng.normal(0, rng.choice([0, 0.004, 0.015, 0.03])),
        rng.normal(0, rng.choice([0, 0.003, 0.01])),
        rng.choice([0, 0.3, 1.0], p=[0.3, 0.35, 0.35]),
    )
