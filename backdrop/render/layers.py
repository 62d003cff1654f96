"""Layers of a rendered frame: sprites warped into the image and pasted over one another."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from backdrop.render.painting import Sprite

FINE = 4  # samples per pixel and axis of the exact mask


@dataclass(frozen=True)
class Layer:
    """A sprite and where it stands in one frame: `matrix` is pixels <- the sprite's local coordinates."""

    label: int
    sprite: Sprite
    matrix: np.ndarray


PixelBox = tuple[int, int, int, int]


def bounds(layer: Layer, size: tuple[int, int]) -> PixelBox | None:
    """Pixels (x0, y0, x1, y1, end exclusive) that a layer can touch; None if it is out of view."""
    x, y, w = layer.matrix @ layer.sprite.corners()
    if np.any(w <= 0):  # partly behind the camera: no shortcut
        return 0, 0, size[0], size[1]
    x, y = x / w, y / w
    x0, y0 = max(0, int(np.floor(x.min()))), max(0, int(np.floor(y.min())))
    x1, y1 = min(size[0], int(np.ceil(x.max())) + 1), min(size[1], int(np.ceil(y.max())) + 1)
    return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None


def union(boxes: list[PixelBox | None]) -> PixelBox | None:
    """The smallest box around the boxes; None where all are out of view."""
    known = np.array([box for box in boxes if box is not None])
    if not len(known):
        return None
    low, high = known[:, :2].min(axis=0), known[:, 2:].max(axis=0)
    return int(low[0]), int(low[1]), int(high[0]), int(high[1])


def warp_layer(layer: Layer, box: PixelBox, fine: int) -> np.ndarray:
    """(h * fine, w * fine, 4) float32: the layer inside a box of pixels, `fine` samples per pixel and axis."""
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


def average(image: np.ndarray, fine: int) -> np.ndarray:
    """Mean over the samples of each pixel."""
    return cv2.resize(image, (image.shape[1] // fine, image.shape[0] // fine), interpolation=cv2.INTER_AREA)


def paste_layer(picture: np.ndarray, layer: Layer, size: tuple[int, int]) -> None:
    """Paint one layer over a (H, W, 3) float32 picture, in place."""
    box = bounds(layer, size)
    if box is not None:
        _lay_over(picture[box[1] : box[3], box[0] : box[2]], warp_layer(layer, box, 1))


def paste_group(picture: np.ndarray, layers: list[Layer], size: tuple[int, int]) -> None:
    """Paint layers as one body: composed at 2 samples per pixel, then laid over the picture, in place."""
    box = union([bounds(layer, size) for layer in layers])
    if box is None:
        return
    body = np.zeros(((box[3] - box[1]) * 2, (box[2] - box[0]) * 2, 4), np.float32)
    for layer in layers:
        part = bounds(layer, size)
        if part is not None:
            rows = slice((part[1] - box[1]) * 2, (part[3] - box[1]) * 2)
            _lay_over(body[rows, (part[0] - box[0]) * 2 : (part[2] - box[0]) * 2], warp_layer(layer, part, 2))
    _lay_over(picture[box[1] : box[3], box[0] : box[2]], average(body, 2))


def _lay_over(below: np.ndarray, above: np.ndarray) -> None:
    """Porter-Duff over, in place, with premultiplied colors."""
    below *= 1 - above[..., 3:]
    below += above[..., : below.shape[2]]


def clip_to_bytes(picture: np.ndarray) -> np.ndarray:
    """A float picture in 0..255 as uint8, rounded to the nearest."""
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)


def coverage_of(layers: list[Layer], size: tuple[int, int]) -> np.ndarray:
    """(layers, H, W) float32 in [0, 1]: the share of each pixel in which a layer is the foremost; later ones cover."""
    shares = np.zeros((len(layers), size[1], size[0]), np.float32)
    box = union([bounds(layer, size) for layer in layers])
    if box is None:
        return shares
    shape = ((box[3] - box[1]) * FINE, (box[2] - box[0]) * FINE)
    free = np.ones(shape, np.float32)
    for index in range(len(layers) - 1, -1, -1):
        part = bounds(layers[index], size)
        if part is None:
            continue
        alpha = warp_layer(layers[index], part, FINE)[..., 3]
        rows = slice((part[1] - box[1]) * FINE, (part[3] - box[1]) * FINE)
        columns = slice((part[0] - box[0]) * FINE, (part[2] - box[0]) * FINE)
        seen = free[rows, columns] * alpha
        free[rows, columns] -= seen
        shares[index, part[1] : part[3], part[0] : part[2]] = average(seen, FINE)
    return shares
