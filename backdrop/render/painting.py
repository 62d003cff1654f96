"""Painting: colors, sprites with alpha, a canvas in scene units."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

FOCAL = 600.0  # units: focal length of the reference camera, a 30 degree view 320 units wide

BASE = 28.0  # units: where the facades (depth 1) meet the ground

EYE = BASE / FOCAL  # camera height in units of the facades' depth

EXTENT = (-720.0, -230.0, 720.0, 270.0)  # units: x0, y0, x1, y1 of the painted picture

DENSITY = 1.25  # texels per unit when a unit is one pixel; a little above 1 keeps zoomed-in views sharp

SUPERSAMPLES = 2  # shapes are drawn this much larger and averaged down

Color = tuple[float, float, float]
"""Red, green, blue in 0..255; a canvas clips what tints make larger."""


@dataclass(frozen=True)
class Sprite:
    """A picture with transparency and its place.

    Attributes:
        image: (h, w, 4) float32, RGB in 0..255 premultiplied by alpha, alpha in 0..1.
        texels: (3, 3) float64, maps texel coordinates (x, y, 1) to local coordinates, centers at integers.
    """

    image: np.ndarray
    texels: np.ndarray

    def corners(self) -> np.ndarray:
        """(3, 4) float64: the picture's outer corners in local homogeneous coordinates."""
        height, width = self.image.shape[:2]
        xs, ys = [-1, width, width, -1], [-1, -1, height, height]
        return self.texels @ np.array([xs, ys, [1.0] * 4])


class Canvas:
    """A picture with transparency that is drawn on in units, supersampled."""

    def __init__(self, extent: tuple[float, float, float, float], density: float) -> None:
        self.extent, self.density = extent, density
        width = max(2, int(np.ceil((extent[2] - extent[0]) * density)))
        height = max(2, int(np.ceil((extent[3] - extent[1]) * density)))
        self.size = (width, height)
        self.image = np.zeros((height * SUPERSAMPLES, width * SUPERSAMPLES, 4), np.uint8)

    def _fixed(self, points: np.ndarray | list) -> np.ndarray:
        """Units to OpenCV's fixed-point pixels (4 fractional bits)."""
        scaled = (np.asarray(points, np.float64) - self.extent[:2]) * self.density * SUPERSAMPLES - 0.5
        return np.round(scaled * 16).astype(np.int32)

    def polygon(self, points: np.ndarray | list, color: Color) -> None:
        cv2.fillPoly(self.image, [self._fixed(points)], _paint(color), cv2.LINE_8, 4)

    def rectangle(self, x0: float, y0: float, x1: float, y1: float, color: Color) -> None:
        self.polygon([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], color)

    def line(self, start: tuple[float, float], end: tuple[float, float], color: Color, width: float) -> None:
        direction = np.subtract(end, start)
        side = np.array([-direction[1], direction[0]]) / max(float(np.hypot(*direction)), 1e-9) * width / 2
        a, b = np.asarray(start, np.float64), np.asarray(end, np.float64)
        self.polygon([a - side, b - side, b + side, a + side], color)

    def ellipse(self, x: float, y: float, rx: float, ry: float, color: Color, *, angle: float = 0.0) -> None:
        center = tuple(int(v) for v in self._fixed([(x, y)])[0])
        axes = (int(rx * self.density * SUPERSAMPLES * 16), int(ry * self.density * SUPERSAMPLES * 16))
        cv2.ellipse(self.image, center, axes, angle, 0, 360, _paint(color), -1, cv2.LINE_8, 4)

    def shade(self, field: np.ndarray) -> None:
        """Multiply the drawn color by a (h, w) field at texel resolution (1 = unchanged)."""
        large = cv2.resize(field.astype(np.float32), self.image.shape[1::-1], interpolation=cv2.INTER_LINEAR)
        rgb = self.image[..., :3].astype(np.float32)
        rgb *= large[..., None]
        self.image[..., :3] = np.clip(rgb + 0.5, 0, 255)

    def sprite(self) -> Sprite:
        """Average down; untouched pixels are zero in all channels, so the result is premultiplied."""
        small = cv2.resize(self.image, self.size, interpolation=cv2.INTER_AREA).astype(np.float32)
        small[..., 3] /= 255.0
        step = 1.0 / self.density
        x0, y0 = self.extent[:2]
        texels = np.array([[step, 0, x0 + step / 2], [0, step, y0 + step / 2], [0, 0, 1.0]])
        return Sprite(np.ascontiguousarray(small), texels)


def _paint(color: Color) -> tuple[float, float, float, float]:
    red, green, blue = (float(np.clip(c, 0, 255)) for c in color)
    return red, green, blue, 255.0


def tint(color: Color, factor: float) -> Color:
    """A lighter (factor > 1) or darker shade of a color."""
    return color[0] * factor, color[1] * factor, color[2] * factor


def smooth_noise(
    rng: np.random.Generator, size: tuple[int, int], cells: tuple[float, ...], amplitude: float
) -> np.ndarray:
    """(h, w) float32 field of mean about 1: cubic noise with one octave for each cell size in texels."""
    width, height = size
    field = np.ones((height, width), np.float32)
    for index, cell in enumerate(cells):
        grid = rng.standard_normal((int(height / cell) + 3, int(width / cell) + 3)).astype(np.float32)
        octave = cv2.resize(grid, size, interpolation=cv2.INTER_CUBIC)
        field += amplitude * 0.75**index * octave
    return field


@dataclass(frozen=True)
class Palette:
    """The colors that all stretches of one town share."""

    facades: tuple[Color, ...]
    roofs: tuple[Color, ...]
    grass: Color
    paving: Color
    sky: tuple[Color, Color]
    wood: Color


def town_palette(town: int) -> Palette:
    rng = np.random.default_rng([town, 11])
    facades = [
        (176, 138, 116),
        (198, 184, 156),
        (150, 158, 168),
        (186, 160, 120),
        (160, 120, 104),
        (204, 196, 186),
    ]
    vary = rng.uniform(0.88, 1.08, (len(facades), 3))
    colors = tuple(
        (float(c[0] * v[0]), float(c[1] * v[1]), float(c[2] * v[2])) for c, v in zip(facades, vary, strict=True)
    )
    grass = tint((104, 134, 72), float(rng.uniform(0.9, 1.1)))
    paving = tint((164, 156, 146), float(rng.uniform(0.9, 1.05)))
    roofs = ((128, 84, 70), (96, 98, 108), (112, 92, 82))
    return Palette(colors, roofs, grass, paving, ((112, 154, 204), (186, 208, 226)), (136, 104, 76))
