"""A random scene: far background, ground, things at several depths, a moving subject, and what blurs the picture."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float, Float32, UInt8

from backdrop.collage.camera import CANVAS, VIEW, CollageCamera, random_camera
from backdrop.collage.subjects import SIDE, Body, random_body
from backdrop.collage.textures import fractal, outline, pixel, random_texture, sprite

Sprite4 = Float32[np.ndarray, "h w 4"]


@dataclass
class Thing:
    """A layer of the background.

    Attributes:
        depth: nearness; horizon: see `CollageCamera.matrix`.
        ripple: of water, in texels; sway: of leaves in the wind, as a slope, at its largest.
    """

    sprite: Sprite4
    depth: float = 1.0
    horizon: float | None = None
    ripple: float = 0.0
    sway: float = 0.0


@dataclass
class Route:
    """Where the subject is: place at frame 0 and pixels a frame, angle and radians a frame, log scale a frame, bob."""

    start: Float[np.ndarray, "2"]
    velocity: Float[np.ndarray, "2"]
    angle: float
    spin: float
    growth: float
    bob: float

    def at(self, t: int) -> tuple[Float[np.ndarray, "2"], float, float]:
        """Place, angle and scale at frame t."""
        place = self.start + self.velocity * t + [0, self.bob * np.sin(t)]
        return place, self.angle + self.spin * t, float(np.exp(self.growth * t))


@dataclass
class Look:
    """What the lens does: Gaussian blur (pixels), noise (gray levels), JPEG quality.

    exposure: share of a frame's time in which the moving camera smears the background.
    """

    blur: float
    exposure: float
    noise: float
    quality: int


@dataclass
class Collage:
    """A rendered clip; frame 0 is its middle.

    Attributes:
        things: background, far to near; the last `before` of them stand before the subject.
        body: of the subject; None: there is none.
        companion: a second body of the subject, and where it is from the first (a rider on a horse, a ball).
        shadow, dust, mirrored: effects that move with the subject and are no part of it: its shadow, the dust it
            raises, its image in water.
    """

    seed: int
    camera: CollageCamera
    things: list[Thing]
    before: int
    body: Body | None
    route: Route
    companion: tuple[Body, np.ndarray] | None
    shadow: bool
    dust: Sprite4 | None
    mirrored: bool
    look: Look

    def frame(self, t: int, small: bool = False) -> tuple[UInt8[np.ndarray, "h w 3"], Float32[np.ndarray, "h w"]]:
        """RGB and the subject's coverage in [0, 1], at the size of `VIEW`; small: at half of it."""
        width, height = (VIEW[0] // 2, VIEW[1] // 2) if small else VIEW
        picture = np.zeros((height, width, 3), np.float32)
        rng = np.random.default_rng([self.seed, t + 1000, small])
        split = len(self.things) - self.before
        for thing in self.things[:split]:
            self._paint_thing(picture, thing, t, rng)
        if self.look.exposure and not small:
            picture = _smeared(picture, self.camera.velocity * self.look.exposure)
        covered = np.zeros((height, width), np.float32)
        if self.body is not None:
            covered = self._paint_subject(picture, self.body, t)
        if self.body is not None and self.dust is not None:
            place, _, _ = self.route.at(t)
            cloud = np.roll(self.dust, rng.integers(0, SIDE, 2), axis=(0, 1)) * rng.uniform(0.5, 1)
            wide = max(0.8, self.body.radius / 40)
            at = [[wide, 0, place[0] - 80 * wide], [0, wide / 2, place[1] + 0.8 * self.body.radius - 40 * wide]]
            covered *= 1 - _over(picture, cloud.astype(np.float32), np.array(at))
        for thing in self.things[split:]:
            covered *= 1 - self._paint_thing(picture, thing, t, rng)
        return self._finish(picture, rng, small), covered

    def _paint_thing(self, picture: np.ndarray, thing: Thing, t: int, rng: np.random.Generator) -> np.ndarray:
        image = thing.sprite
        if thing.ripple:
            waves = cv2.GaussianBlur(rng.standard_normal(CANVAS[::-1]).astype(np.float32), (0, 0), 9)
            waves *= thing.ripple / waves.std()
            y, x = np.mgrid[: CANVAS[1], : CANVAS[0]].astype(np.float32)
            image = cv2.remap(image, x + waves, y + 0.5 * waves, cv2.INTER_LINEAR)
        matrix = self.camera.matrix(t, thing.depth, thing.horizon)
        if thing.sway:
            slope = thing.sway * np.sin(0.6 * t + 10 * thing.depth)
            matrix = matrix @ np.array([[1, slope, -slope * CANVAS[1] / 2], [0, 1, 0], [0, 0, 1]])
        ground = thing.horizon is not None or thing is self.things[0]
        return _over(picture, image, matrix, cv2.BORDER_REFLECT if ground else cv2.BORDER_CONSTANT)

    def _paint_subject(self, picture: np.ndarray, subject: Body, t: int) -> np.ndarray:
        place, angle, scale = self.route.at(t)
        if self.shadow:  # the first parts, flattened on the ground beside the subject
            lain = place + [subject.radius * 0.3, subject.radius * 0.75]
            for part, matrix in list(zip(subject.parts, subject.matrices(lain, angle, scale, t), strict=True))[:2]:
                flat = matrix * np.array([[1], [0.35]])
                flat[1, 2] += (place[1] + subject.radius * 0.8) * 0.65
                dark = _over(np.zeros_like(picture), part.sprite, flat)
                picture *= 1 - 0.5 * cv2.GaussianBlur(dark, (0, 0), 2)[..., None]
        if self.mirrored:
            self._paint_mirrored(picture, subject, t)
        covered = np.zeros(picture.shape[:2], np.float32)
        for body, apart in [(subject, np.zeros(2)), *([self.companion] if self.companion else [])]:
            for part, matrix in zip(body.parts, body.matrices(place + apart, angle, scale, t), strict=True):
                covered = np.maximum(covered, _over(picture, part.sprite, matrix))
        return covered

    def _paint_mirrored(self, picture: np.ndarray, subject: Body, t: int) -> None:
        """The subject upside down below itself, dim, as still water shows it."""
        place, angle, scale = self.route.at(t)
        surface = place[1] + 0.8 * subject.radius
        for part, matrix in zip(subject.parts, subject.matrices(place, angle, scale, t), strict=True):
            below = matrix * np.array([[1], [-1]])
            below[1, 2] += 2 * surface
            _over(picture, 0.5 * part.sprite, below)

    def _finish(self, picture: np.ndarray, rng: np.random.Generator, small: bool) -> UInt8[np.ndarray, "h w 3"]:
        look = self.look
        if look.blur and not small:
            picture = cv2.GaussianBlur(picture, (0, 0), look.blur)
        if look.noise:
            grain = rng.normal(0, look.noise * (0.5 if small else 1), (*picture.shape[:2], 1))
            picture = picture * (1 + rng.normal(0, 0.01)) + grain
        quality = min(95, look.quality + 20 * small)
        _, jpeg = cv2.imencode(".jpg", np.clip(picture, 0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, quality])
        return cv2.imdecode(jpeg, cv2.IMREAD_COLOR)  # type: ignore[return-value]


def _smeared(picture: np.ndarray, way: Float[np.ndarray, "2"]) -> np.ndarray:
    """Mean along a straight way in pixels: motion blur."""
    reach = int(np.ceil(np.abs(way).max() / 2))
    if reach < 1:
        return picture
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1), np.float32)
    center = np.array([reach, reach])
    cv2.line(kernel, pixel(np.rint(center - way / 2)), pixel(np.rint(center + way / 2)), 1.0)
    return cv2.filter2D(picture, -1, kernel / kernel.sum())


def _over(picture: np.ndarray, image: Sprite4, matrix: np.ndarray, border: int = cv2.BORDER_CONSTANT) -> np.ndarray:
    """Lay a sprite over a picture of `VIEW`'s size or less, in place; returns its alpha there."""
    height, width = picture.shape[:2]
    if width != VIEW[0]:
        factor = width / VIEW[0]
        matrix = matrix * factor + np.array([[0, 0, factor / 2 - 0.5]] * 2)
    laid = cv2.warpAffine(image, matrix.astype(np.float32), (width, height), flags=cv2.INTER_LINEAR, borderMode=border)
    alpha = laid[..., 3:]
    picture *= 1 - alpha
    picture += laid[..., :3]
    return alpha[..., 0]


def random_collage(seed: int) -> Collage:
    """A scene and all that happens in it. The same seed gives the same frames."""
    rng = np.random.default_rng(seed)
    camera = random_camera(rng)
    horizon = rng.uniform(0.2, 0.9) * VIEW[1] if rng.random() < 0.75 else None
    ripple = rng.uniform(0.5, 3) if rng.random() < 0.2 else 0.0
    things = _background(rng, horizon, ripple)
    sway = float(rng.choice([0, 0.01, 0.03], p=[0.7, 0.15, 0.15]))
    objects = [
        _object(rng, camera.travel, horizon, sway) for _ in range(rng.choice([0, 1, 3, 7], p=[0.2, 0.25, 0.3, 0.25]))
    ]
    objects.sort(key=lambda thing: thing.depth)
    before = int(rng.integers(0, len(objects) + 1)) if rng.random() < 0.3 else 0
    radius = float(np.exp(rng.uniform(np.log(8), np.log(120))))
    companion = None
    body = random_body(rng, radius)
    if rng.random() < 0.12:
        companion = (random_body(rng, radius * rng.uniform(0.5, 0.9)), rng.normal(0, 1, 2) * radius * 0.6)
    look = Look(
        float(rng.choice([0, 0.6, 1.2], p=[0.5, 0.35, 0.15])),
        rng.uniform(0.2, 1.0) if rng.random() < 0.5 else 0.0,
        float(rng.choice([0, 1.5, 3])),
        int(rng.integers(35, 96)),
    )
    dust = _dust(rng) if rng.random() < 0.15 else None
    route = _route(rng, camera, radius)
    shadow = rng.random() < 0.35
    mirrored = bool(ripple) and rng.random() < 0.6
    return Collage(seed, camera, [*things, *objects], before, body, route, companion, shadow, dust, mirrored, look)


def _background(rng: np.random.Generator, horizon: float | None, ripple: float) -> list[Thing]:
    """The far layer, out of focus on some; before it the ground, which may be water."""
    far = random_texture(rng, CANVAS, 0.02 if rng.random() < 0.15 else None)
    focus = float(rng.choice([0, 1.2, 2.5], p=[0.6, 0.25, 0.15]))
    if focus:
        far = cv2.GaussianBlur(far, (0, 0), focus)
    whole = np.ones(CANVAS[::-1], np.float32)
    found = [Thing(np.dstack([far, whole]).astype(np.float32), ripple=ripple if horizon is None else 0.0)]
    if horizon is not None:
        skyline = 8 * fractal(rng, (CANVAS[0], 4))[0] * rng.choice([0, 0.5, 2])
        rows = horizon + (CANVAS[1] - VIEW[1]) / 2 + skyline
        mask = np.arange(CANVAS[1])[:, None] >= rows[None, :]
        found.append(Thing(sprite(random_texture(rng, CANVAS), mask), 1.0, horizon, ripple))
    return found


def _object(rng: np.random.Generator, travel: float, horizon: float | None, sway: float) -> Thing:
    """A pole, a tree, a rock or a box that stands on the ground, nearer than the far layer if the camera travels."""
    depth = 1 + travel * rng.uniform(-0.1, 1.2)
    mask = np.zeros(CANVAS[::-1], np.uint8)
    foot = np.array([rng.uniform(0, CANVAS[0]), (0.6 * VIEW[1] if horizon is None else horizon)])
    foot[1] += (CANVAS[1] - VIEW[1]) / 2 + rng.uniform(0, 30) * depth
    kind = rng.random()
    if kind < 0.6:
        top = foot - [rng.normal(0, 4), rng.uniform(40, 300) if kind < 0.4 else rng.uniform(60, 160)]
        cv2.line(mask, pixel(foot), pixel(top), 255, int(rng.uniform(1.5, 12)) + 1)
        if kind >= 0.4:
            cv2.fillPoly(mask, [(outline(rng, rng.uniform(15, 50)) + top).astype(np.int32)], 255)
    elif kind < 0.8:
        cv2.fillPoly(mask, [(outline(rng, rng.uniform(8, 60)) + foot).astype(np.int32)], 255)
    else:
        half = np.array([rng.uniform(10, 80), rng.uniform(10, 90)])
        cv2.rectangle(mask, pixel(foot - half), pixel(foot + half * [1, 0]), 255, -1)
    return Thing(sprite(random_texture(rng, CANVAS), mask), depth, sway=sway)


def _route(rng: np.random.Generator, camera: CollageCamera, radius: float) -> Route:
    """The subject's way: followed by the camera or not, never at rest against the background; the near are fast."""
    start = np.array(VIEW) / 2 + rng.normal(0, 1, 2) * [VIEW[0] * 0.2, VIEW[1] * 0.15]
    follow = rng.choice([0, 0.7, 1.0], p=[0.3, 0.3, 0.4])
    own = rng.normal(0, 1, 2) * [1, 0.4]
    own *= rng.choice([0.4, 1.2, 3, 6.0, 12.0]) * rng.uniform(0.4, 1.2) / (np.linalg.norm(own) + 1e-6)
    own *= max(1.0, radius / 60)
    velocity = own * (1 - follow) + rng.normal(0, 0.3, 2) * (follow > 0)
    if np.linalg.norm(velocity + camera.velocity) < 0.5:
        velocity = velocity + np.sign(rng.normal(0, 1, 2)) * 0.8
    spin, growth = rng.normal(0, rng.choice([0, 0.03])), rng.normal(0, rng.choice([0, 0.01]))
    return Route(start, velocity, rng.uniform(-0.3, 0.3), spin, growth, rng.normal(0, 1.0) * rng.choice([0, 1]))


def _dust(rng: np.random.Generator) -> Sprite4:
    """A cloud of soft discs."""
    mask = np.zeros((SIDE, SIDE), np.uint8)
    for _ in range(12):
        cv2.circle(mask, pixel(rng.integers(40, 120, 2)), int(rng.integers(3, 14)), 255, -1)
    alpha = 0.7 * cv2.GaussianBlur(mask.astype(np.float32) / 255, (0, 0), 5)
    return np.dstack([random_texture(rng, (SIDE, SIDE)) * alpha[..., None], alpha]).astype(np.float32)
