"""Small rendered scenes in which a rival's own authors expect it to work, and its mean J on them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from backdrop.measures import jaccard
from backdrop.render.clip import Clip
from backdrop.rivals.material import Material, Rival, RivalSettings
from backdrop.rivals.scores import sequence_otsu
from tests.small_pipeline import small_params
from tests.student.clips import Rendered

SIZE = (160, 96)


def settings(scratch: Path, **changes: object) -> RivalSettings:
    params = small_params()
    student = params.student.model_copy(update={"size": SIZE})
    return RivalSettings(params.model_copy(update={"student": student}), scratch, **changes)  # type: ignore[arg-type]


def material(clip: "Scene", scratch: Path, **changes: object) -> Material:
    return Material(Rendered(clip), settings(scratch, **changes))


def quiet(mode: str = "static", frames: int = 30, seed: int = 1) -> Clip:
    """Nothing moves but the subject and the camera."""
    return Clip(seed, mode, SIZE, frames, subject=seed, town=seed, distractors=False)


class PlainGround:
    """A rendered subject before a ground without texture that shifts, in the way of `Clip`."""

    def __init__(self, frames: int) -> None:
        self.clip = quiet(frames=frames)
        self.box, self.mask = self.clip.box, self.clip.mask
        self.shade = np.linspace(90, 110, SIZE[0])[None, :, None] + np.array([40.0, 60.0, 0.0])

    def __len__(self) -> int:
        return len(self.clip)

    def frame(self, t: int) -> np.ndarray:
        ground = np.broadcast_to(np.roll(self.shade, t, axis=1), (SIZE[1], SIZE[0], 3))
        return np.where(self.mask(t)[..., None], self.clip.frame(t), ground).astype(np.uint8)


Scene = Clip | PlainGround


def works(rival: Rival, clip: Scene, scratch: Path, **changes: object) -> float:
    """Mean J at the threshold that Otsu's rule chooses over the sequence, without the truth."""
    return mean_j(rival(material(clip, scratch, **changes)), clip)


def mean_j(masks: Iterable[np.ndarray], clip: Scene) -> float:
    found = list(masks)
    assert len(found) == len(clip)
    assert all(mask.dtype == np.float32 and mask.min() >= 0 and mask.max() <= 1 for mask in found)
    level = sequence_otsu(found)
    return float(np.mean([jaccard(mask > level, clip.mask(t)) for t, mask in enumerate(found)]))
