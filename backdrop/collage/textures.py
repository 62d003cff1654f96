"""Random textures, outlines and colors."""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import Float, Float32

Texture = Float32[np.ndarray, "h w 3"]
"""RGB in 0..255."""

Points = Float[np.ndarray, "n 2"]


def fractal(rng: np.random.Generator, size: tuple[int, int]) -> Float32[np.ndarray, "h w"]:
    """Cubic noise of several octaves, mean 0, standard deviation 1; coarseness and roughness are drawn."""
    width, height = size
    field = np.zeros((height, width), np.float32)
    cells, weight, fading = int(rng.choice([2, 3, 4, 6, 8])), 1.0, rng.uniform(0.35, 0.9)
    while cells < width:
        grid = rng.standard_normal((max(2, cells * height // width + 1), cells + 1)).astype(np.float32)
        field += weight * cv2.resize(grid, size, interpolation=cv2.INTER_CUBIC)
        weight, cells = weight * fading, 2 * cells
    field -= field.mean()
    return field / (field.std() + 1e-6)


def random_color(rng: np.random.Generator) -> Float32[np.ndarray, "3"]:
    """A color of any lightness, seldom vivid."""
    return np.clip(rng.uniform(10, 245) + rng.normal(0, 40, 3), 5, 250).astype(np.float32)


def random_texture(rng: np.random.Generator, size: tuple[int, int], contrast: float | None = None) -> Texture:
    """Noise between two colors, stripes on some, patches on half of them.

    Args:
        contrast: of the noise; None: drawn, now and then nearly flat.
    """
    first, second = random_color(rng), random_color(rng)
    noise, kind = fractal(rng, size), rng.random()
    if kind < 0.15:
        angle, frequency = rng.uniform(0, np.pi), rng.uniform(0.05, 0.5)
        y, x = np.mgrid[: size[1], : size[0]].astype(np.float32)
        waves = np.sin((x * np.cos(angle) + y * np.sin(angle)) * frequency + noise * rng.uniform(0, 1))
        noise = (0.6 * noise + 1.2 * waves).astype(np.float32)
    if contrast is None:
        contrast = rng.choice([0.05, 0.2, 0.4, 0.7], p=[0.12, 0.23, 0.35, 0.3])
    picture = first + (second - first) * np.clip(0.5 + contrast * noise, 0, 1)[..., None]
    if kind > 0.5:
        for _ in range(rng.integers(3, 60)):
            _patch(rng, picture, random_color(rng) * 0.6 + first * 0.4)
    return np.ascontiguousarray(picture, np.float32)


def _patch(rng: np.random.Generator, picture: np.ndarray, color: np.ndarray) -> None:
    """Paint an ellipse or a polygon somewhere, in place."""
    center = rng.uniform(0, 1, 2) * picture.shape[1::-1]
    radius = rng.uniform(2, 30)
    if rng.random() < 0.5:
        axes = (int(radius) + 1, int(radius * rng.uniform(0.2, 1)) + 1)
        cv2.ellipse(picture, pixel(center), axes, rng.uniform(0, 180), 0, 360, color.tolist(), -1)
    else:
        corners = center + rng.normal(0, radius, (rng.integers(3, 6), 2))
        cv2.fillPoly(picture, [corners.astype(np.int32)], color.tolist())


def outline(rng: np.random.Generator, radius: float) -> Points:
    """A closed smooth outline around the origin: a circle whose radius wavers, stretched."""
    angle = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    reach = np.ones(64)
    for wave in range(1, rng.integers(2, 7) + 1):
        reach += rng.normal(0, 0.35 / wave) * np.cos(wave * angle + rng.uniform(0, 2 * np.pi))
    reach, aspect = np.clip(reach, 0.25, 2.2), np.exp(rng.normal(0, 0.35))
    return np.stack([np.cos(angle) * reach * radius * aspect, np.sin(angle) * reach * radius / aspect], axis=1)


def pixel(point: np.ndarray) -> tuple[int, int]:
    """Coordinates as OpenCV's drawing functions want them."""
    return int(point[0]), int(point[1])


def sprite(picture: Texture, mask: np.ndarray) -> Float32[np.ndarray, "h w 4"]:
    """Premultiplied RGB and alpha (0..1), the mask's edge softened."""
    alpha = cv2.GaussianBlur((mask > 0).astype(np.float32), (0, 0), 0.7)
    return np.dstack([picture * alpha[..., None], alpha]).astype(np.float32)
