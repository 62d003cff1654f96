"""Houses of the rendered street."""

from __future__ import annotations

import numpy as np

from backdrop.render.painting import BASE, Canvas, Color, Palette, tint


def paint_house(
    canvas: Canvas, rng: np.random.Generator, palette: Palette, *, left: float, width: float, color: Color
) -> None:
    """Paint one house that begins at scene x = `left`: walls, roof, windows and a door."""
    x = left
    floors = int(rng.choice(4, p=(0.25, 0.35, 0.25, 0.15))) + 1
    floor = float(rng.uniform(33, 40))
    top = BASE - floors * floor
    canvas.rectangle(x, top, x + width, BASE, color)
    _courses(canvas, rng, (x, top, x + width, BASE), color)
    _roof(canvas, rng, (x, width, top), palette.roofs[int(rng.integers(len(palette.roofs)))])
    columns = max(2, round(width / float(rng.uniform(22, 30))))
    pitch = width / columns
    trim = tint((226, 220, 208), float(rng.uniform(0.8, 1.0)))
    glass = tint((74, 86, 102), float(rng.uniform(0.85, 1.25)))
    door = int(rng.integers(columns))
    for level in range(floors):
        y = top + level * floor
        canvas.rectangle(x, y - 1.6, x + width, y + 0.6, tint(trim, 0.92))
        for column in range(columns):
            center = x + (column + 0.5) * pitch
            if level == floors - 1 and column == door:
                _door(canvas, rng, center, floor, pitch)
            else:
                _house_window(canvas, rng, (center, y + floor * 0.5), (pitch * 0.27, floor * 0.3), (trim, glass))
    canvas.rectangle(x, BASE - 4, x + width, BASE, tint(color, 0.62))
    canvas.rectangle(x + width - 2.2, top, x + width - 0.6, BASE, tint(color, 0.55))


def _courses(canvas: Canvas, rng: np.random.Generator, box: tuple[float, float, float, float], color: Color) -> None:
    """Brick courses, siding, or broad plaster panels."""
    x0, y0, x1, y1 = box
    kind = int(rng.integers(3))
    step = (3.2, 4.6, 11.0)[kind]
    for row, y in enumerate(np.arange(y0, y1, step)):
        canvas.line((x0, y), (x1, y), tint(color, 0.86), 0.7)
        if kind == 1:
            continue
        length = (8.0, 0.0, 24.0)[kind]
        for x in np.arange(x0 + (row % 2) * length / 2, x1, length):
            canvas.line((x, y), (x, min(y + step, y1)), tint(color, 0.88), 0.7)
            if kind == 0 and rng.random() < 0.16:
                canvas.rectangle(
                    x + 0.5,
                    y + 0.5,
                    min(x + length, x1),
                    min(y + step, y1),
                    tint(color, rng.uniform(0.84, 1.1)),
                )


def _roof(canvas: Canvas, rng: np.random.Generator, eaves: tuple[float, float, float], color: Color) -> None:
    """A roof with rows of tiles and a chimney; `eaves`: x of its left end, its width, its y."""
    x, width, top = eaves
    height, slope = float(rng.uniform(14, 26)), float(rng.uniform(4, 14))
    canvas.polygon(
        [(x - 3, top), (x + slope, top - height), (x + width - slope, top - height), (x + width + 3, top)],
        color,
    )
    for row, y in enumerate(np.arange(top - height, top, 4.0)):
        inset = slope * (top - y) / height - 3 * (y - top + height) / height
        canvas.line((x + inset, y), (x + width - inset, y), tint(color, 0.74), 0.9)
        for tile in np.arange(x + inset + (row % 2) * 3, x + width - inset, 6.0):
            canvas.line((tile, y), (tile, y + 4), tint(color, 0.84), 0.7)
    chimney = x + width * float(rng.uniform(0.2, 0.75))
    canvas.rectangle(chimney, top - height - 11, chimney + 9, top - height + 4, tint(color, 0.9))
    canvas.rectangle(chimney - 1, top - height - 13, chimney + 10, top - height - 10, tint(color, 0.65))


def _house_window(
    canvas: Canvas,
    rng: np.random.Generator,
    center: tuple[float, float],
    half: tuple[float, float],
    colors: tuple[Color, Color],
) -> None:
    """A window of half width and half height `half`; `colors`: of its trim and its glass."""
    (x, y), (w, h), (trim, glass) = center, half, colors
    canvas.rectangle(x - w - 1.6, y - h - 1.6, x + w + 1.6, y + h + 1.6, trim)
    canvas.rectangle(x - w, y - h, x + w, y + h, tint(glass, rng.uniform(0.8, 1.15)))
    canvas.polygon([(x - w, y - h), (x + w * 0.1, y - h), (x - w, y + h * 0.3)], tint(glass, 1.45))
    if rng.random() < 0.45:
        drop = rng.uniform(0.3, 1.2) * h
        canvas.rectangle(x - w, y - h, x + w, y - h + drop, tint((206, 196, 176), rng.uniform(0.75, 1.0)))
    canvas.rectangle(x - 0.6, y - h, x + 0.6, y + h, trim)
    canvas.rectangle(x - w, y - 0.5, x + w, y + 0.5, trim)
    canvas.rectangle(x - w - 2.6, y + h + 1.2, x + w + 2.6, y + h + 3.2, tint(trim, 0.72))


def _door(canvas: Canvas, rng: np.random.Generator, x: float, floor: float, pitch: float) -> None:
    color = ((92, 70, 58), (66, 92, 88), (104, 58, 54), (70, 78, 104))[int(rng.integers(4))]
    half, top = min(pitch * 0.3, 8.0), BASE - floor * 0.78
    canvas.rectangle(x - half - 2, top - 2, x + half + 2, BASE, (204, 198, 186))
    canvas.rectangle(x - half, top, x + half, BASE, color)
    for row in range(3):
        y = top + 2 + row * 8
        canvas.rectangle(x - half + 1.5, y, x - 0.8, y + 6, tint(color, 1.3))
        canvas.rectangle(x + 0.8, y, x + half - 1.5, y + 6, tint(color, 1.3))
    for stripe in range(6):
        left = x - half - 5 + stripe * (2 * half + 10) / 6
        canvas.polygon(
            [
                (left, top - 3),
                (left + (2 * half + 10) / 6, top - 3),
                (left + (2 * half + 10) / 6, top - 10),
                (left, top - 10),
            ],
            (206, 200, 188) if stripe % 2 else tint(color, 1.25),
        )
