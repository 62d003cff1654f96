"""Painted scenery of the embedded footage: a street with a lawn, far larger than the camera's view.

Everything is drawn from a seed with OpenCV's shape primitives: hills, a wood, facades with windows, a
hedge, paving, a mown lawn, a fence, trees and clouds. The picture is structured (rows, courses, joints,
stripes) so that an inpainter can predict a hidden piece from its surroundings, and rich enough at several
scales for keypoints.

Coordinates: scene units. One unit is one pixel of a view 192 pixels high at zoom 1; x to the right, y down,
the horizon lies at y = 0. The wall of facades stands at depth 1 and meets the ground at y = `BASE`; a thing
that stands on the ground at height y is at depth `BASE / y`, as seen from a camera at `EYE` above the
ground.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from backdrop.render.buildings import paint_house
from backdrop.render.painting import (
    BASE,
    DENSITY,
    EXTENT,
    FOCAL,
    Canvas,
    Color,
    Palette,
    Sprite,
    smooth_noise,
    tint,
    town_palette,
)


@dataclass(frozen=True)
class Tree:
    """A tree: its sprite in local units (origin at the foot of the trunk) and its place on the ground."""

    sprite: Sprite
    x: float
    y: float


@dataclass(frozen=True)
class World:
    """One painted stretch of the street.

    Attributes:
        wall: facades, hills and sky (local = scene units, depth 1). It is opaque: its fourth channel is not
            alpha but the share of open sky, where clouds may drift.
        ground: everything below `BASE` (local = scene units, on the ground plane).
        fence: fence on the line y = `fence_y` (local = scene units, depth `BASE / fence_y`).
        clouds: drifting clouds (local = scene units).
        trees: trees between fence and path, farthest first.
    """

    wall: Sprite
    ground: Sprite
    fence: Sprite
    fence_y: float
    clouds: Sprite
    trees: tuple[Tree, ...]


def _hills(canvas: Canvas, rng: np.random.Generator) -> None:
    """Two hazy ridges with shaded flanks, then rows of a wood."""
    x0, _, x1, _ = canvas.extent
    for level, color in ((-44.0, (150, 166, 186)), (-30.0, (124, 146, 140))):
        knots = np.arange(x0 - 60, x1 + 90, 45.0)
        heights = level + rng.uniform(-13, 13, len(knots))
        canvas.polygon([(x0 - 60, BASE), *zip(knots, heights, strict=True), (x1 + 90, BASE)], color)
        for x, y in zip(knots, heights, strict=True):
            for step in range(5):
                dx = (step - 2) * 14 + rng.uniform(-4, 4)
                top = (x + dx * 0.4, y + abs(dx) * 0.5 + 6)
                canvas.polygon([top, (x + dx + 5, y + 46), (x + dx - 7, y + 50)], tint(color, 0.86 + 0.07 * (step % 4)))
    for row in range(4):
        foot = -18.0 + row * 12
        for x in np.arange(x0, x1, 11.0 + 1.5 * row) + rng.uniform(-2.5, 2.5):
            _conifer(canvas, rng, (float(x + rng.uniform(-3, 3)), foot + 12), 25 + 3 * row, 0.95 - 0.06 * row)


def _conifer(canvas: Canvas, rng: np.random.Generator, foot: tuple[float, float], height: float, light: float) -> None:
    x, y = foot
    height *= rng.uniform(0.75, 1.25)
    color = tint((82, 112, 84), light * rng.uniform(0.85, 1.15))
    for tier in range(4):
        top, half = y - height * (1 - 0.2 * tier), height * (0.1 + 0.05 * tier)
        canvas.polygon(
            [(x, top), (x + half, top + height * 0.36), (x - half, top + height * 0.36)],
            tint(color, 1.08 - 0.09 * tier),
        )
        canvas.polygon(
            [(x, top), (x + half, top + height * 0.36), (x, top + height * 0.3)],
            tint(color, 0.84 - 0.07 * tier),
        )


def _street(canvas: Canvas, rng: np.random.Generator, palette: Palette) -> None:
    """Houses from left to right, some with a gap that lets the wood be seen, then the hedge before them."""
    x, previous = canvas.extent[0], -1
    while x < canvas.extent[2]:
        width = float(rng.uniform(72, 138))
        choice = int(rng.integers(len(palette.facades)))
        choice = (choice + (choice == previous)) % len(palette.facades)
        paint_house(canvas, rng, palette, left=x, width=width, color=palette.facades[choice])
        previous = choice
        x += width + (float(rng.uniform(30, 84)) if rng.random() < 0.5 else 0.0)
    _hedge(canvas, rng)


def _hedge(canvas: Canvas, rng: np.random.Generator) -> None:
    """Clipped bushes before the facades, with gaps at random."""
    x = canvas.extent[0]
    while x < canvas.extent[2]:
        length = float(rng.uniform(40, 120))
        color = tint((84, 108, 68), float(rng.uniform(0.85, 1.1)))
        top = BASE - float(rng.uniform(9, 15))
        canvas.rectangle(x, top, x + length, BASE, tint(color, 0.8))
        for row in range(4):
            for step in np.arange(x, x + length, 5.0):
                center = (step + rng.uniform(-1, 1) + 2.5 * (row % 2), top + 2 + row * 3.6)
                canvas.ellipse(*center, 3.4, 2.6, tint(color, rng.uniform(0.78, 1.22)))
        x += length + float(rng.uniform(20, 70))


def _ground(canvas: Canvas, rng: np.random.Generator, palette: Palette) -> None:
    """Pavement, verge, path of slabs and a mown lawn, all in the perspective of the ground plane."""
    x0, _, x1, y1 = canvas.extent
    canvas.rectangle(x0, BASE, x1, y1, palette.grass)
    _slabs(canvas, rng, palette.paving, (BASE, 37.0), 0.03)
    canvas.rectangle(x0, 37.0, x1, 38.6, tint(palette.paving, 1.2))
    _mown(canvas, palette.grass, (38.6, 60.0))
    _tufts(canvas, rng, palette.grass, (40.0, 60.0), 700)
    _slabs(canvas, rng, tint(palette.paving, 0.94), (60.0, 112.0), 0.026)
    canvas.rectangle(x0, 59.0, x1, 61.0, tint(palette.paving, 0.7))
    canvas.rectangle(x0, 111.0, x1, 114.0, tint(palette.paving, 1.18))
    _mown(canvas, palette.grass, (114.0, y1))
    _tufts(canvas, rng, palette.grass, (114.0, y1), 1100)
    _beds(canvas, rng)


def _slabs(canvas: Canvas, rng: np.random.Generator, color: Color, band: tuple[float, float], side: float) -> None:
    """Square slabs of the given side (facade depths): rows at equal depths, joints to the vanishing point."""
    near, far = BASE / band[1], BASE / band[0]
    rows = np.linspace(near, far, max(2, round((far - near) / side / 2.2)) + 1)
    reach = canvas.extent[2] / FOCAL * far
    for row, (z0, z1) in enumerate(zip(rows[:-1], rows[1:], strict=True)):
        y0, y1 = BASE / z0, BASE / z1
        for left in np.arange(-reach, reach, side) + (row % 2) * side / 2:
            points = [
                (FOCAL * left / z0, y0),
                (FOCAL * (left + side) / z0, y0),
                (FOCAL * (left + side) / z1, y1),
                (FOCAL * left / z1, y1),
            ]
            if min(p[0] for p in points) > canvas.extent[2] or max(p[0] for p in points) < canvas.extent[0]:
                continue
            canvas.polygon(points, tint(color, rng.uniform(0.9, 1.08)))
            canvas.line(points[0], points[3], tint(color, 0.72), 0.9)
        canvas.line((canvas.extent[0], y1), (canvas.extent[2], y1), tint(color, 0.72), 0.9)


def _mown(canvas: Canvas, color: Color, band: tuple[float, float]) -> None:
    """Stripes of a mower that run away from the camera, alternately light and dark."""
    near, far, side = BASE / band[1], BASE / band[0], 0.045
    reach = canvas.extent[2] / FOCAL * far
    for index, left in enumerate(np.arange(-reach, reach, side)):
        points = [
            (FOCAL * left / near, band[1]),
            (FOCAL * (left + side) / near, band[1]),
            (FOCAL * (left + side) / far, band[0]),
            (FOCAL * left / far, band[0]),
        ]
        canvas.polygon(points, tint(color, (0.92, 1.08)[index % 2]))


def _tufts(canvas: Canvas, rng: np.random.Generator, color: Color, band: tuple[float, float], count: int) -> None:
    """Fans of blades, larger when nearer, and some leaves; sorted so that nearer ones cover farther ones."""
    for y in np.sort(rng.uniform(*band, count)):
        x = float(rng.uniform(canvas.extent[0], canvas.extent[2]))
        size, shade = 0.055 * y, tint(color, rng.uniform(0.72, 1.28))
        for lean in (-0.8, -0.3, 0.25, 0.75):
            tip = (x + lean * size * rng.uniform(0.7, 1.2), y - size * rng.uniform(0.6, 1.1))
            canvas.polygon([(x + lean * 1.2 - 0.6, y), (x + lean * 1.2 + 0.6, y), tip], shade)
        if rng.random() < 0.12:
            canvas.ellipse(x + 3, y, 0.022 * y, 0.013 * y, (168, 134, 84), angle=float(rng.uniform(0, 180)))


def _beds(canvas: Canvas, rng: np.random.Generator) -> None:
    """Flower beds on the lawn and manhole covers on the path: landmarks that are not repetitive."""
    for x in np.arange(canvas.extent[0] + 60, canvas.extent[2], 150.0) + rng.uniform(-40, 40):
        y = float(rng.uniform(128, 190))
        canvas.ellipse(x, y, 0.26 * y, 0.075 * y, (104, 84, 66))
        petals = ((196, 176, 196), (206, 182, 110), (178, 112, 112), (220, 214, 204))[int(rng.integers(4))]
        for _ in range(60):
            angle, radius = rng.uniform(0, 2 * np.pi), np.sqrt(rng.uniform(0, 1))
            px, py = x + 0.24 * y * radius * np.cos(angle), y + 0.065 * y * radius * np.sin(angle)
            canvas.ellipse(px, py, 2.4, 1.6, tint((86, 118, 66), rng.uniform(0.8, 1.2)))
            canvas.ellipse(px, py - 2, 1.7, 1.4, tint(petals, rng.uniform(0.85, 1.1)))
        cover = float(rng.uniform(66, 100))
        at = x + 70
        canvas.ellipse(at, cover, 0.16 * cover, 0.045 * cover, (116, 112, 108))
        canvas.ellipse(at, cover, 0.13 * cover, 0.034 * cover, (142, 138, 132))
        canvas.line((at - 0.12 * cover, cover), (at + 0.12 * cover, cover), (110, 106, 102), 1.2)


def _fence(canvas: Canvas, rng: np.random.Generator, palette: Palette, foot: float) -> None:
    """Pickets between posts, with an opening now and then."""
    color, x, opening = palette.wood, canvas.extent[0], 0
    while x < canvas.extent[2]:
        opening = opening - 1 if opening else (2 if rng.random() < 0.12 else 0)
        if not opening:
            for rail in (foot - 17, foot - 7):
                canvas.rectangle(x, rail, x + 34, rail + 2.4, tint(color, 0.82))
            for picket in np.arange(x + 3, x + 33, 5.0):
                light = rng.uniform(0.92, 1.22)
                canvas.polygon(
                    [
                        (picket, foot),
                        (picket, foot - 20),
                        (picket + 1.4, foot - 22.5),
                        (picket + 2.8, foot - 20),
                        (picket + 2.8, foot),
                    ],
                    tint(color, light),
                )
        canvas.rectangle(x - 1.8, foot - 26, x + 1.8, foot + 1, tint(color, 0.7))
        canvas.rectangle(x - 2.6, foot - 27.5, x + 2.6, foot - 25.5, tint(color, 1.1))
        x += 34.0


def _broadleaf(rng: np.random.Generator, density: float, height: float) -> Sprite:
    """A tree with a crown of leaf clusters, lit from the upper left. Origin at the foot of the trunk."""
    canvas = Canvas((-height * 0.45, -height * 1.05, height * 0.45, 4.0), density)
    bark, leaf = (98, 80, 64), tint((92, 122, 66), float(rng.uniform(0.85, 1.2)))
    width = height * 0.04
    canvas.polygon(
        [(-width * 1.5, 0), (-width * 0.7, -height * 0.6), (width * 0.7, -height * 0.6), (width * 1.5, 0)],
        bark,
    )
    for step in range(9):
        y = -height * 0.05 * step
        canvas.line((-width * 0.8, y), (-width * 0.2, y - height * 0.05), tint(bark, 0.72), 0.9)
        canvas.line((width * 0.9, y - 2), (width * 0.3, y - height * 0.06), tint(bark, 1.25), 0.9)
    centers = [(rng.uniform(-0.26, 0.26), rng.uniform(-0.86, -0.5)) for _ in range(15)]
    for cx, cy in sorted(centers, key=lambda c: c[1], reverse=True):
        radius = height * rng.uniform(0.1, 0.16)
        canvas.ellipse(cx * height, cy * height, radius, radius * 0.85, tint(leaf, 0.68))
        for _ in range(34):
            angle, distance = rng.uniform(0, 2 * np.pi), radius * np.sqrt(rng.uniform(0, 1.1))
            dx, dy = distance * np.cos(angle), 0.85 * distance * np.sin(angle)
            light = 0.98 - 0.24 * (dx + 1.5 * dy) / radius + rng.uniform(-0.1, 0.1)
            canvas.ellipse(
                cx * height + dx, cy * height + dy, 2.7, 1.7, tint(leaf, light), angle=float(rng.uniform(0, 180))
            )
    return canvas.sprite()


def _clouds(rng: np.random.Generator, density: float) -> Sprite:
    """Soft heaps of cloud on a band of sky, opaque in their middle."""
    canvas = Canvas((EXTENT[0] * 1.3, EXTENT[1], EXTENT[2] * 1.3, 0.0), density * 0.5)
    for x in np.arange(canvas.extent[0], canvas.extent[2], 76.0):
        cx, cy, scale = x + rng.uniform(-20, 20), rng.uniform(-100, -42), rng.uniform(0.7, 1.2)
        for puff in range(9):
            dx, light = (puff - 4) * 8 * scale, float(rng.uniform(0.95, 1.04))
            radius = scale * (15 - 2.2 * abs(puff - 4)) * rng.uniform(0.8, 1.2)
            canvas.ellipse(cx + dx, cy - radius * 0.5, radius, radius * 0.7, tint((240, 242, 244), light))
            canvas.ellipse(cx + dx, cy, radius, radius * 0.35, tint((202, 208, 218), light))
    sprite = canvas.sprite()
    soft = cv2.GaussianBlur(sprite.image, (0, 0), 1.6 * density)
    return Sprite(soft * np.float32(0.85), sprite.texels)


def _sky(palette: Palette, size: tuple[int, int]) -> np.ndarray:
    """(h, w, 3) float32 vertical gradient from zenith to horizon."""
    width, height = size
    weight = np.linspace(0, 1, height, dtype=np.float32)[:, None, None] ** 0.8
    top, bottom = (np.asarray(c, np.float32) for c in palette.sky)
    weight = np.clip(weight * (EXTENT[3] - EXTENT[1]) / -EXTENT[1], 0, 1)
    return np.broadcast_to(top * (1 - weight) + bottom * weight, (height, width, 3))


@lru_cache(maxsize=2)
def paint_world(town: int, stretch: int, scale: float) -> World:
    """Paint one stretch of a town's street.

    Args:
        town: seed of the palette, which all stretches share.
        stretch: which stretch of the street; other numbers have other houses, trees and joints.
        scale: pixels per unit at zoom 1 (view height / 192).

    Returns:
        The world. It is cached and shared: its arrays are read-only.
    """
    rng, palette, density = np.random.default_rng([town, stretch, 12]), town_palette(town), DENSITY * scale
    far = Canvas(EXTENT, density)
    _hills(far, rng)
    _street(far, rng, palette)
    far.shade(smooth_noise(rng, far.size, (60 * scale, 17 * scale, 5 * scale), 0.035))
    wall = far.sprite()
    wall.image[..., 3] = 1.0 - wall.image[..., 3]
    wall.image[..., :3] += wall.image[..., 3:] * _sky(palette, far.size)
    lawn = Canvas((EXTENT[0], BASE, EXTENT[2], EXTENT[3]), density)
    _ground(lawn, rng, palette)
    lawn.shade(smooth_noise(rng, lawn.size, (70 * scale, 20 * scale, 6 * scale), 0.045))
    fence_y = 44.0
    pickets = Canvas((EXTENT[0], fence_y - 30, EXTENT[2], fence_y + 3), density)
    _fence(pickets, rng, palette, fence_y)
    trees = []
    for x in np.arange(EXTENT[0] + 40, EXTENT[2], 135.0):
        foot = float(rng.uniform(47, 57))
        sprite = _broadleaf(rng, density, foot * float(rng.uniform(1.9, 2.5)))
        trees.append(Tree(sprite, float(x + rng.uniform(-45, 45)), foot))
    world = World(
        wall,
        lawn.sprite(),
        pickets.sprite(),
        fence_y,
        _clouds(rng, density),
        tuple(sorted(trees, key=lambda tree: tree.y)),
    )
    for sprite in (
        world.wall,
        world.ground,
        world.fence,
        world.clouds,
        *(tree.sprite for tree in world.trees),
    ):
        sprite.image.setflags(write=False)
    return world


@lru_cache(maxsize=2)
def paint_flat(town: int, stretch: int, scale: float) -> Sprite:
    """Wall, ground and fence of `paint_world` in one picture, for a camera that stays in place (no parallax).

    Same arguments; like `World.wall`, its fourth channel is the share of open sky. Read-only.
    """
    world = paint_world(town, stretch, scale)
    image = world.wall.image.copy()
    size = image.shape[1::-1]
    to_texels = np.linalg.inv(world.wall.texels)
    for layer in (world.ground, world.fence):
        matrix = to_texels @ layer.texels
        patch = cv2.warpPerspective(layer.image, matrix, size, flags=cv2.INTER_LINEAR)
        image *= 1 - patch[..., 3:]
        image[..., :3] += patch[..., :3]
    image.setflags(write=False)
    return Sprite(image, world.wall.texels)
