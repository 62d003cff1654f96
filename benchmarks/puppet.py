"""The joints of the embedded footage's puppet, exactly, and what a poor detector would say of them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from backdrop.adjust.skeleton import PosePrior, fit_pose_prior
from backdrop.render.camera import Motion
from backdrop.render.painting import BASE
from backdrop.render.person import GAITS, Subject, make_subject, pose

LIMBS = (("thigh", "shin", "foot"), ("upper_arm", "forearm", "hand"))
"""The chains that hang on the pelvis and on the neck, on the far and on the near side."""

PARENTS = (-1, 0, 1, 0, 3, 4, 5, 1, 7, 8, 9, 0, 11, 12, 13, 1, 15, 16, 17)
"""Of pelvis, neck, crown; then, far side first, hip, knee, ankle, toe, and shoulder, elbow, wrist, fingertip."""


def puppet_joints(subject: Subject, phase: float, facing: float) -> np.ndarray:
    """(19, 2) joints in the figure's frame, in units (see `backdrop.render.person`), in the order of `PARENTS`."""
    frames = pose(subject, phase, facing)

    def end(name: str) -> np.ndarray:
        return (frames[name] @ [subject.length(name), 0, 1])[:2]

    found = [frames["pelvis"][:2, 2], frames["head"][:2, 2], end("head")]
    for side in ("far", "near"):
        for limb in LIMBS:
            names = [f"{side}_{name}" for name in limb]
            found += [*(frames[name][:2, 2] for name in names), end(names[-1])]
    return np.array(found)


def clip_joints(seed: int, mode: str, size: tuple[int, int], frames: int, subject: int) -> np.ndarray:
    """(T, 19, 2) joints in pixels of the clip of `backdrop.render.clip.Clip` with the same arguments."""
    mover = make_subject(subject, size[1] / 192.0)
    motion = Motion(seed, mode, size, frames=frames, subject=mover, presence=False, rests=False)
    found = []
    for t in range(frames):
        state = motion.state(t)
        place = np.array([[1, 0, state.x], [0, 1, motion.foot], [0, 0, 1.0]])
        joints = puppet_joints(mover, state.phase, state.facing)
        plane = motion.camera(t).wall(BASE / motion.foot) @ place
        x, y, w = plane @ np.concatenate([joints, np.ones((len(joints), 1))], axis=1).T
        found.append(np.stack([x / w, y / w], axis=1))
    return np.array(found)


def puppet_prior(subjects: range = range(600, 612), phases: int = 16) -> PosePrior:
    """A component per gait, from subjects that are in no clip of the footage."""
    kinds: dict[str, list[np.ndarray]] = {gait: [] for gait in GAITS}
    for number in subjects:
        one = make_subject(number, 0.25)
        for facing in (-1.0, -0.5, 0.0, 0.5, 1.0):
            kinds[one.gait] += [puppet_joints(one, k / phases, facing) for k in range(phases)]
    return fit_pose_prior([np.array(kind) for kind in kinds.values()], PARENTS)


class Detected(NamedTuple):
    """What `adjust_skeleton` takes: (T, P, J, 2) joints in pixels and (T, P, J) confidences."""

    joints: np.ndarray
    confidences: np.ndarray


def poor_detections(truth: np.ndarray, rng: np.random.Generator, noise: float, outliers: float) -> Detected:
    """Two skeletons per frame: the truth with noise and wrong joints, and somebody else's, who stands still.

    Args:
        truth: (T, J, 2) in pixels. noise: deviation of a joint, as a share of the skeleton's height.
        outliers: share of joints that lie anywhere within a skeleton's height of their place; and so large a share is
            not found at all. In half as large a share of the frames nothing of the subject is found, or the other
            skeleton is the surer one.
    """
    frames, joints, _ = truth.shape
    height = float(np.median(np.ptp(truth[..., 1], axis=1)))
    found = truth + rng.normal(0, noise * height, truth.shape)
    wrong = rng.random((frames, joints)) < outliers
    found[wrong] += rng.uniform(-height, height, (int(wrong.sum()), 2))
    sure = np.where(wrong, rng.uniform(0.3, 1, wrong.shape), rng.uniform(0.6, 1, wrong.shape))
    sure[rng.random((frames, joints)) < outliers] = 0
    sure[rng.random(frames) < outliers / 2] = 0
    other = np.broadcast_to(truth[0] + [1.5 * height, -0.1 * height], truth.shape)
    weak = np.where(rng.random(frames) < outliers / 2, 1.0, 0.3)[:, None] * np.ones(joints)
    return Detected(np.stack([found, other], axis=1), np.stack([sure, weak], axis=1))
