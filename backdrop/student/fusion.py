"""Fusion of a frame's cues into one, weighted by how far the cues of a sequence agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from backdrop.motion.blobs import subject_component
from backdrop.motion.neighbors import Valid
from backdrop.student.cues.cue import Cue


def fuse(cues: Mapping[str, Cue], size: tuple[int, int], weights: Mapping[str, float] | None = None) -> Cue:
    """Weighted mean of the cues that are valid at a pixel; 0 and not valid where none is.

    Args:
        weights: of the cues by name, positive; None: all alike.
    """
    total = np.zeros((size[1], size[0]), np.float32)
    mass = np.zeros_like(total)
    for name, cue in cues.items():
        weight = 1.0 if weights is None else weights[name]
        total += np.where(cue.valid, weight * cue.value, 0)
        mass += weight * cue.valid
    known = mass > 0
    return Cue(total / np.where(known, mass, 1), known)


def consensus(
    frames: Sequence[Mapping[str, Cue]], size: tuple[int, int], power: float, subjects: int = 1, passes: int = 2
) -> dict[str, float]:
    """How far each cue of a sequence is to be trusted: J of its subject with the fused cues' subject, to a power.

    Begins with equal weights and repeats with the weights found. (The idea of STAPLE, Warfield et al. 2004: who agrees
    with the weighted majority weighs more.)

    Args:
        frames: cues of some of the sequence's frames.
        power: 0: all weights 1.
        subjects: components that a frame's subject may have.

    Returns:
        A weight in [1e-4, 1] for each cue that any frame has, the largest 1.
    """
    names = sorted({name for cues in frames for name in cues})
    weights = dict.fromkeys(names, 1.0)
    if not power:
        return weights
    even = np.ones((size[1], size[0]), np.float32)

    def subject(cue: Cue) -> Valid:
        return subject_component(cue.value, even, subjects=subjects)

    subjects_of = [{name: subject(cue) for name, cue in cues.items()} for cues in frames]
    for _ in range(passes):
        agreed: dict[str, list[float]] = {name: [] for name in names}
        for cues, alone in zip(frames, subjects_of, strict=True):
            fused = subject(fuse(cues, size, weights))
            for name, part in alone.items():
                either = np.count_nonzero(part | fused)
                agreed[name].append(np.count_nonzero(part & fused) / either if either else 0.0)
        raw = {name: max(float(np.mean(values)), 0.01) ** power for name, values in agreed.items()}
        weights = {name: max(value / max(raw.values()), 1e-4) for name, value in raw.items()}
    return weights
