"""The scene at one instant: every layer in its place, and the picture that they make.

The camera's mode decides what moves against what, see `backdrop.render.clip`.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from backdrop.render.camera import Motion
from backdrop.render.layers import Layer, paste_group, paste_layer, warp_layer
from backdrop.render.painting import BASE, Sprite
from backdrop.render.person import Subject, make_subject, pose, snapshot
from backdrop.render.street import Tree, paint_flat, paint_world

SHADOW = -1  # label of what darkens without hiding

FIRST_PART = 100  # label of the subject's first part; the others follow in painting order

_WALKER = 90000  # bystanders are numbered from here in steps of 3, so that all have the calm gait


class Place(NamedTuple):
    """Which stretch of which town a clip is filmed in.

    seed: of the clip, for where the bystander stands. town: seed of the palette. stretch: of the town's street.
    """

    seed: int
    town: int
    stretch: int


class Scene:
    """Street, bystander and subject of one clip, which can be drawn at any instant (in frames).

    Args:
        place: the stretch of the street.
        motion: trajectories of the camera and of the subject.
        subject: number of the person who moves; a bystander is somebody else.
        distractors: trees sway, clouds drift and a bystander stands there.

    Attributes:
        size: (W, H) of the view in pixels.
        world: the painted stretch of the street.
        motion, distractors: as given.
        subject: the painted person who moves.
    """

    def __init__(self, place: Place, motion: Motion, subject: int, distractors: bool) -> None:
        self.motion, self.size, self.distractors = motion, motion.size, distractors
        self._scale = motion.scale
        self.world = paint_world(place.town, place.stretch, self._scale)
        self._parallax = motion.mode == "handheld"
        self._base = self.world.wall if self._parallax else paint_flat(place.town, place.stretch, self._scale)
        self.subject: Subject = make_subject(subject, self._scale)
        self._bystander = self._place_bystander(subject, place)
        self._shadow = _shadow(self._scale)

    def draw(self, time: float, subject: bool) -> np.ndarray:
        """(H, W, 3) float32 view at one instant, RGB in 0..255; `subject`: with the person who moves and the shadow."""
        camera = self.motion.camera(time)
        view = cv2.warpPerspective(
            self._base.image,
            camera.wall(1.0) @ self._base.texels,
            self.size,
            flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REPLICATE,
        )
        picture, sky = np.ascontiguousarray(view[..., :3]), view[..., 3]
        self._draw_clouds(picture, sky, time)
        for layer in self.scenery(time):
            paste_layer(picture, layer, self.size)
        if subject:
            state, foot = self.motion.state(time), self.motion.foot
            paste_layer(picture, self._shadow_layer(time, state.x, foot, self.subject.height), self.size)
            paste_group(picture, self.figure(time), self.size)
        return picture

    def _draw_clouds(self, picture: np.ndarray, sky: np.ndarray, time: float) -> None:
        rows = int(np.flatnonzero(sky.max(axis=1) > 0.004)[-1]) + 1 if sky.max() > 0.004 else 0
        if not rows:
            return
        drift = np.eye(3)
        drift[0, 2] = self.motion.drift * time * self.distractors
        clouds = self.world.clouds
        layer = Layer(0, clouds, self.motion.camera(time).wall(1.0) @ drift)
        patch = warp_layer(layer, (0, 0, self.size[0], rows), 1)
        patch *= sky[:rows, :, None]
        picture[:rows] *= 1 - patch[..., 3:]
        picture[:rows] += patch[..., :3]

    def scenery(self, time: float) -> list[Layer]:
        """Layers before the base picture, farthest first."""
        camera, world = self.motion.camera(time), self.world
        layers = []
        if self._parallax:
            layers = [
                Layer(1, world.ground, camera.ground()),
                Layer(2, world.fence, camera.wall(BASE / world.fence_y)),
            ]
        for index, tree in enumerate(world.trees):
            sway = self.motion.sway(index, time) * self.distractors
            layers.append(Layer(3 + index, tree.sprite, camera.wall(BASE / tree.y) @ _planted(tree, sway)))
        if self.distractors:
            tree = self._bystander
            matrix = camera.wall(BASE / tree.y) @ _planted(tree, 0.0)
            height = self.subject.height * tree.y / self.motion.foot
            layers.append(self._shadow_layer(time, tree.x, tree.y, height))
            layers.append(Layer(3 + len(world.trees), tree.sprite, matrix))
        return layers

    def figure(self, time: float) -> list[Layer]:
        """The subject's parts in painting order, labelled from `FIRST_PART`."""
        state = self.motion.state(time)
        frames = pose(self.subject, state.phase, state.facing)
        place = np.array([[1, 0, state.x], [0, 1, self.motion.foot], [0, 0, 1.0]])
        plane = self.motion.camera(time).wall(BASE / self.motion.foot) @ place
        return [
            Layer(FIRST_PART + index, part.sprite, plane @ frames[part.name])
            for index, part in enumerate(self.subject.parts)
        ]

    def _shadow_layer(self, time: float, x: float, y: float, height: float) -> Layer:
        """The soft shadow on the ground of a person of some height who stands at (x, y)."""
        place = np.array([[0.3 * height, 0, x + 0.12 * height], [0, 0.055 * height, y - 1.0], [0, 0, 1.0]])
        return Layer(SHADOW, self._shadow, self.motion.camera(time).ground() @ place)

    def _place_bystander(self, subject: int, place: Place) -> Tree:
        """A person who stands by the path, smaller because farther away."""
        rng = np.random.default_rng([place.seed, 41])
        other = make_subject(_WALKER + 3 * (31 * place.stretch + subject % 5), self._scale)
        y = float(rng.uniform(62, 68))
        ratio = y / self.motion.foot
        sprite = snapshot(other, 0.04, self._scale)
        small = Sprite(sprite.image, np.diag([ratio, ratio, 1.0]) @ sprite.texels)
        return Tree(small, self.motion.middle + float(rng.choice([-1, 1]) * rng.uniform(35, 95)), y)

    def matrices(self, t: int) -> dict[int, np.ndarray]:
        """Label -> (3, 3) float64, pixels <- local coordinates, for every label."""
        matrices = {0: self.motion.camera(t).wall(1.0)}
        return matrices | {layer.label: layer.matrix for layer in (*self.scenery(t), *self.figure(t))}


def _planted(tree: Tree, sway: float) -> np.ndarray:
    """scene <- local coordinates of a thing that stands at its foot and is sheared by the wind."""
    return np.array([[1, sway, tree.x], [0, 1, tree.y], [0, 0, 1.0]])


def _shadow(scale: float) -> Sprite:
    """A soft dark disk of radius 1 (local units), black with a bell-shaped alpha."""
    count = max(16, int(24 * scale))
    axis = np.linspace(-1, 1, count, dtype=np.float32)
    square = axis[None, :] ** 2 + axis[:, None] ** 2
    image = np.zeros((count, count, 4), np.float32)
    image[..., 3] = 0.5 * np.clip(1 - square, 0, 1) ** 1.5
    step = 2 / (count - 1)
    return Sprite(image, np.array([[step, 0, -1], [0, step, -1], [0, 0, 1.0]]))
