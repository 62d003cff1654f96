"""The articulated subject of the embedded footage: a clothed puppet of rigid parts.

A subject is drawn from its number: proportions, patterned clothes, hair or hat, and a
gait. Each part (thigh, torso, head, ...) is a rigid sprite; a pose is one rigid transform per part, so that
the motion of every point of the subject is known exactly.

Coordinates: a part's local frame has its joint at the origin, u along the bone, v across it. The figure's
frame has its origin on the ground below the hips, x to the right, y down. Lengths are in scene units.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from backdrop.render.painting import Color, Sprite, smooth_noise, tint

GAITS = ("walk", "skate", "dance")

_TEXELS = 2.5  # texels per pixel at zoom 1: parts are magnified by zoom and supersampling


@dataclass(frozen=True)
class BodyPart:
    """One rigid part: its picture in local coordinates, bone length and end radius (units)."""

    name: str
    sprite: Sprite
    length: float
    radius: float


@dataclass(frozen=True)
class Subject:
    """A person: parts in painting order (farthest first), build and way of moving.

    Attributes:
        parts: the parts, in painting order.
        height: standing height, units.
        gait: one of `GAITS`.
        rhythm: gait cycles per unit of distance (walk, skate) or per frame (dance).
        vigor: factor on the joint angles' swing.
        speed: usual speed in units per frame.
    """

    parts: tuple[BodyPart, ...]
    height: float
    gait: str
    rhythm: float
    vigor: float
    speed: float

    def length(self, name: str) -> float:
        return next(part.length for part in self.parts if part.name == name)

    def radius(self, name: str) -> float:
        return next(part.radius for part in self.parts if part.name == name)


@lru_cache(maxsize=16)
def make_subject(number: int, scale: float) -> Subject:
    """Draw a subject.

    Args:
        number: who it is; other numbers have other clothes, proportions and gait.
        scale: pixels per unit at zoom 1.

    Returns:
        The subject. It is cached and shared: its arrays are read-only.
    """
    rng = np.random.default_rng([number, 21])
    height = float(rng.uniform(98, 105))
    build = float(rng.uniform(1.24, 1.38))
    leg, arm = float(rng.uniform(0.235, 0.255)), float(rng.uniform(0.15, 0.17))
    clothes = _clothes(number, rng)
    density = _TEXELS * scale
    parts = []
    for name, length, start, end, garment in _body(leg, arm, build):
        sprite = _capsule(rng, density, (length * height, start * height, end * height), garment, clothes)
        parts.append(BodyPart(name, sprite, length * height, end * height))
    gait = GAITS[number % len(GAITS)]
    rhythm = float({"walk": 1 / 118, "skate": 1 / 210, "dance": 1 / 30}[gait] * rng.uniform(0.9, 1.15))
    vigor, speed = float(rng.uniform(0.85, 1.15)), float(rng.uniform(4.4, 6.2))
    return Subject(tuple(parts), height, gait, rhythm, vigor, speed)


def _body(leg: float, arm: float, build: float) -> list[tuple[str, float, float, float, str]]:
    """Parts in painting order: name, length, radius at joint and end (of the height), garment."""
    limb = [
        ("forearm", arm, 0.036, 0.032, "sleeve"),
        ("hand", 0.022, 0.03, 0.026, "glove"),
        ("upper_arm", arm, 0.047, 0.04, "sleeve"),
    ]
    legs = [
        ("foot", 0.085, 0.03, 0.026, "shoe"),
        ("shin", leg, 0.05, 0.04, "trousers"),
        ("thigh", leg, 0.072, 0.052, "trousers"),
    ]
    grow = {"shoe": 1.0, "glove": 1.0}
    sides = [
        [(f"{side}_{n}", length, a * grow.get(g, build), b * grow.get(g, build), g) for n, length, a, b, g in group]
        for side in ("far", "near")
        for group in (limb, legs)
    ]
    trunk = [
        ("pelvis", 0.05, 0.088 * build, 0.088 * build, "trousers"),
        ("torso", 0.235, 0.092 * build, 0.112 * build, "jacket"),
        ("head", 0.062, 0.056, 0.066, "head"),
    ]
    return [*sides[0], *sides[1], *sides[3], *trunk, *sides[2]]


@dataclass(frozen=True)
class _Clothes:
    jacket: Color
    second: Color
    trousers: Color
    shoe: Color
    skin: Color
    hair: Color
    pattern: int
    plain_sleeves: bool
    hat: bool
    pitch: float


def _hue(hue: float, saturation: float, value: float) -> Color:
    red, green, blue = colorsys.hsv_to_rgb(hue % 1.0, saturation, value)
    return 255 * red, 255 * green, 255 * blue


def _clothes(number: int, rng: np.random.Generator) -> _Clothes:
    """Muted colors; hues step by the golden ratio, so that neighboring numbers differ."""
    hue = 0.55 + 0.618034 * number
    if 0.18 < hue % 1.0 < 0.42:  # the lawn's greens
        hue += 0.31
    jacket = _hue(hue, rng.uniform(0.36, 0.58), rng.uniform(0.5, 0.78))
    second = _hue(hue + rng.uniform(0.3, 0.6), rng.uniform(0.15, 0.5), rng.uniform(0.72, 0.92))
    if rng.random() < 0.5:
        trousers = _hue(rng.uniform(0.55, 0.7), rng.uniform(0.2, 0.45), rng.uniform(0.24, 0.42))
    else:
        trousers = _hue(hue + rng.uniform(0.35, 0.65), rng.uniform(0.15, 0.4), rng.uniform(0.35, 0.6))
    skin = tint((222, 178, 148), rng.uniform(0.55, 1.03))
    hair = ((58, 42, 34), (120, 86, 54), (34, 32, 34), (168, 140, 96))[int(rng.integers(4))]
    shoe = ((62, 54, 50), (192, 188, 182), (110, 70, 56))[int(rng.integers(3))]
    return _Clothes(
        jacket,
        second,
        trousers,
        shoe,
        skin,
        hair,
        int(rng.integers(5)),
        bool(rng.random() < 0.4),
        bool(rng.random() < 0.5),
        float(rng.uniform(0.9, 1.3)),
    )


def _capsule(
    rng: np.random.Generator,
    density: float,
    shape: tuple[float, float, float],
    garment: str,
    clothes: _Clothes,
) -> Sprite:
    """Paint a tapered capsule (length, start radius, end radius in units) with cloth, folds and shading."""
    length, start, end = shape
    reach, pad = max(start, end), 2.0 / density
    width = int(np.ceil((length + start + end + 2 * pad) * density))
    height = int(np.ceil((2 * reach + 2 * pad) * density))
    u0, v0 = -start - pad, -reach - pad
    u = (u0 + (np.arange(width) + 0.5) / density)[None, :].astype(np.float32)
    v = (v0 + (np.arange(height) + 0.5) / density)[:, None].astype(np.float32)
    along = np.clip(u / max(length, 1e-6), 0, 1)
    radius = start + (end - start) * along
    distance = np.hypot(u - along * length, v) - radius
    alpha = np.clip(0.5 - distance * density, 0, 1)
    color = _fabric(u + 0 * v, v + 0 * u, shape, garment, clothes)
    across = np.clip(v / radius, -1, 1)
    light = 1.06 - 0.34 * across**2 + 0.1 * across
    folds = smooth_noise(rng, (width, height), (7.0 * density, 3.0 * density), 0.05)
    color = np.clip(color * (light * folds)[..., None], 0, 255)
    image = np.concatenate([color * alpha[..., None], alpha[..., None]], axis=2).astype(np.float32)
    image.setflags(write=False)
    step = 1 / density
    return Sprite(image, np.array([[step, 0, u0 + step / 2], [0, step, v0 + step / 2], [0, 0, 1.0]]))


def _rgb(color: Color) -> np.ndarray:
    return np.asarray(color, np.float32)


def _fabric(
    u: np.ndarray, v: np.ndarray, shape: tuple[float, float, float], garment: str, clothes: _Clothes
) -> np.ndarray:
    """(h, w, 3) float32 color at local coordinates (units)."""
    length = shape[0]
    if garment == "head":
        return _head(u, v, shape, clothes)
    if garment in ("jacket", "sleeve"):
        color = _pattern(u, v, clothes, plain=garment == "sleeve" and clothes.plain_sleeves)
        trim = u < 0.0 if garment == "jacket" else u > length * 0.98
        return np.where(trim[..., None], _rgb(tint(clothes.jacket, 0.6)), color)
    if garment == "trousers":
        color = np.broadcast_to(_rgb(clothes.trousers), (*u.shape, 3))
        seam = np.abs(v - 0.8) < 0.55
        weave = (np.sin(u * 2 * np.pi / 4.5) > 0.75)[..., None]
        color = np.where(weave, color * np.float32(1.1), color)
        return np.where(seam[..., None], color * np.float32(1.25), color)
    base = clothes.shoe if garment == "shoe" else clothes.skin
    color = np.broadcast_to(_rgb(base), (*u.shape, 3))
    sole = (v > shape[1] * 0.45)[..., None] if garment == "shoe" else np.zeros((*u.shape, 1), bool)
    return np.where(sole, _rgb((206, 200, 190)), color)


def _pattern(u: np.ndarray, v: np.ndarray, clothes: _Clothes, plain: bool) -> np.ndarray:
    """The jacket: rings, checks, diagonals, a chest band, or dots of the second color."""
    pitch = 6.5 * clothes.pitch
    if plain:
        mark = np.abs(u % (2.4 * pitch) - pitch) < 0.6
    elif clothes.pattern == 0:
        mark = u % pitch < pitch * 0.42
    elif clothes.pattern == 1:
        mark = (u % pitch < pitch * 0.5) ^ ((v + 40 * pitch) % pitch < pitch * 0.5)
    elif clothes.pattern == 2:
        mark = (u + v + 40 * pitch) % pitch < pitch * 0.38
    elif clothes.pattern == 3:
        mark = (np.abs(u - 15) < 4.2) | (np.abs(u - 5.5) < 1.0) | (np.abs(v) < 0.5)
    else:
        mark = np.hypot(u % pitch - pitch / 2, (v + 40 * pitch) % pitch - pitch / 2) < pitch * 0.3
    return np.where(mark[..., None], _rgb(clothes.second), _rgb(clothes.jacket))


def _head(u: np.ndarray, v: np.ndarray, shape: tuple[float, float, float], clothes: _Clothes) -> np.ndarray:
    """Neck and face with eyes; hair or a striped hat on top. u runs upwards."""
    length, _, radius = shape
    color = np.broadcast_to(_rgb(clothes.skin), (*u.shape, 3))
    shadow = (u < length * 0.1)[..., None]
    color = np.where(shadow, color * np.float32(0.78), color)
    eyes = np.hypot((u - length * 1.0) * 0.8, np.abs(v) - radius * 0.38) < radius * 0.13
    mouth = (np.abs(u - length * 0.4) < 0.35) & (np.abs(v) < radius * 0.24)
    color = np.where((eyes | mouth)[..., None], _rgb((84, 56, 50)), color)
    top = u > length * 1.25
    sides = (np.abs(v) > radius * 0.78) & (u > length * 0.55)
    if clothes.hat:
        ribs = np.where((u % 3.4 < 1.3)[..., None], _rgb(clothes.second), _rgb(clothes.jacket))
        return np.where(top[..., None], ribs, color)
    strands = np.where((np.sin(v * 3.0) > 0.3)[..., None], _rgb(tint(clothes.hair, 1.3)), _rgb(clothes.hair))
    return np.where((top | sides)[..., None], strands, color)


def pose(subject: Subject, phase: float, facing: float) -> dict[str, np.ndarray]:
    """Rigid transforms of the parts.

    Args:
        subject: who.
        phase: gait cycles since the start.
        facing: -1 (left) to 1 (right), 0 towards the camera; changes smoothly when the subject turns.

    Returns:
        (3, 3) float64 for each part name: figure frame <- part's local frame. The lowest foot is on the
        ground.
    """
    angles = _GAIT[subject.gait](2 * np.pi * phase, facing, subject.vigor)
    open_hips, open_chest = 1 - 0.55 * abs(facing), 1 - 0.5 * abs(facing)
    hip = 0.052 * subject.height * open_hips
    shoulder = 0.105 * subject.height * open_chest
    frames: dict[str, np.ndarray] = {}
    lean = np.pi - angles["lean"]
    frames["pelvis"] = _joint(np.array([0.0, 0.0]), lean)
    frames["torso"] = _joint(_at(frames["pelvis"], 0.02 * subject.height), lean)
    chest = subject.length("torso")
    frames["head"] = _joint(_at(frames["torso"], chest + 0.075 * subject.height), np.pi - angles["nod"])
    for side, sign in (("far", -1.0), ("near", 1.0)):
        start = _at(frames["torso"], chest * 0.93, sign * shoulder)
        _chain(subject, frames, [f"{side}_{name}" for name in ("upper_arm", "forearm", "hand")], start, angles)
        start = _at(frames["pelvis"], -0.01 * subject.height, sign * hip)
        _chain(subject, frames, [f"{side}_{name}" for name in ("thigh", "shin")], start, angles)
        ankle = _at(frames[f"{side}_shin"], subject.length(f"{side}_shin"))
        frames[f"{side}_foot"] = _joint(ankle, angles[f"{side}_foot"])
    return _stand(subject, frames, angles["hop"] * subject.height)


def _joint(origin: np.ndarray, angle: float) -> np.ndarray:
    """Local frame at a joint; angle 0 points down, positive turns towards +x."""
    s, c = np.sin(angle), np.cos(angle)
    return np.array([[s, -c, origin[0]], [c, s, origin[1]], [0, 0, 1.0]])


def _at(frame: np.ndarray, u: float, v: float = 0.0) -> np.ndarray:
    return (frame @ np.array([u, v, 1.0]))[:2]


def _chain(
    subject: Subject,
    frames: dict[str, np.ndarray],
    names: list[str],
    start: np.ndarray,
    angles: dict[str, float],
) -> None:
    """Hang parts on one another from a start point; a hand continues its forearm."""
    angle = 0.0
    for name in names:
        angle = angles.get(name, angle)
        frames[name] = _joint(start, angle)
        start = _at(frames[name], subject.length(name))


def _stand(subject: Subject, frames: dict[str, np.ndarray], hop: float) -> dict[str, np.ndarray]:
    """Shift the figure so that its lowest foot touches the ground (or hangs `hop` above it)."""
    lowest = max(
        float(_at(frames[f"{side}_foot"], u)[1]) + subject.radius(f"{side}_foot")
        for side in ("far", "near")
        for u in (0.0, subject.length(f"{side}_foot"))
    )
    shift = np.eye(3)
    shift[1, 2] = -lowest - hop
    return {name: shift @ frame for name, frame in frames.items()}


def _walk(phase: float, facing: float, vigor: float) -> dict[str, float]:
    angles = {"lean": 0.07 * facing, "nod": 0.03 * np.sin(phase), "hop": 0.0}
    for side, shift in (("far", 0.0), ("near", np.pi)):
        swing = np.sin(phase + shift)
        lift = 0.5 * (1 + np.cos(phase + shift))
        thigh = facing * 0.5 * vigor * swing + (0.06 if side == "near" else -0.06)
        arm = -facing * 0.6 * vigor * swing + (0.16 if side == "near" else -0.16)
        angles |= {
            f"{side}_thigh": thigh,
            f"{side}_shin": thigh - facing * (0.1 + 0.75 * lift * vigor),
            f"{side}_upper_arm": arm,
            f"{side}_forearm": arm + facing * (0.45 + 0.25 * swing),
        }
        angles[f"{side}_foot"] = facing * (1.45 - 0.5 * lift) + (0.3 if side == "near" else -0.3)
    return angles


def _skate(phase: float, facing: float, vigor: float) -> dict[str, float]:
    angles = {"lean": facing * (0.38 + 0.05 * np.sin(phase)), "nod": 0.1 * facing, "hop": 0.0}
    for side, shift, out in (("far", 0.0, -1.0), ("near", np.pi, 1.0)):
        swing = np.sin(phase + shift)
        thigh = facing * (0.3 + 0.45 * vigor * swing) + 0.2 * out
        arm = facing * (0.1 - 0.8 * vigor * swing) + 0.45 * out
        angles |= {
            f"{side}_thigh": thigh,
            f"{side}_shin": thigh - facing * (0.75 - 0.3 * swing),
            f"{side}_upper_arm": arm,
            f"{side}_forearm": arm + 0.5 * facing,
            f"{side}_foot": 1.4 * facing + 0.25 * out,
        }
    return angles


def _dance(phase: float, facing: float, vigor: float) -> dict[str, float]:
    angles = {
        "lean": 0.16 * vigor * np.sin(phase) + 0.05 * facing,
        "nod": -0.14 * np.sin(phase),
        "hop": 0.025 * vigor * (1 - np.cos(2 * phase)),
    }
    for side, out in (("far", -1.0), ("near", 1.0)):
        wave = np.sin(phase + (0.0 if out > 0 else 0.9))
        thigh = out * (0.26 + 0.14 * np.cos(phase)) + 0.3 * vigor * facing * np.sin(phase + out)
        arm = out * (1.35 + 0.75 * vigor * wave)
        angles |= {
            f"{side}_thigh": thigh,
            f"{side}_shin": thigh - out * 0.22 - 0.3 * facing,
            f"{side}_upper_arm": arm,
            f"{side}_forearm": arm + out * (0.5 + 0.5 * np.cos(phase)),
            f"{side}_foot": out * 1.1 + 0.3 * facing,
        }
    return angles


_GAIT = {"walk": _walk, "skate": _skate, "dance": _dance}


def snapshot(subject: Subject, phase: float, scale: float) -> Sprite:
    """One sprite of the whole figure standing still. Local frame: the figure's, density 2 texels per pixel."""
    density = 2.0 * scale
    half, top, bottom = 0.55 * subject.height, 1.15 * subject.height, 0.05 * subject.height
    width, height = int(2 * half * density), int((top + bottom) * density)
    step = 1 / density
    texels = np.array([[step, 0, -half + step / 2], [0, step, -top + step / 2], [0, 0, 1.0]])
    image = np.zeros((height, width, 4), np.float32)
    frames = pose(subject, phase, 0.25)
    for part in subject.parts:
        matrix = np.linalg.inv(texels) @ frames[part.name] @ part.sprite.texels
        patch = cv2.warpPerspective(part.sprite.image, matrix, (width, height), flags=cv2.INTER_LINEAR)
        image = image * (1 - patch[..., 3:]) + patch
    image.setflags(write=False)
    return Sprite(image, texels)
