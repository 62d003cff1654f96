"""Rendered clips as sequences of frames, their exact homographies, and how well a mask fits the truth."""

from __future__ import annotations

import numpy as np

from backdrop.render.clip import Clip
from tests.frame_archives import ImageList
from tests.small_pipeline import small_params

SIZE = (160, 96)

PARAMS = small_params().student.model_copy(
    update={"cues": ["motion", "layers", "median", "mog2"], "neighbors": 8, "spacing": 3, "parallax": True}
)


def still(count: int) -> ImageList:
    """A camera and a scene at rest, with sensor noise."""
    background = Clip(0, "static", SIZE, 2).background(0).astype(np.float32)
    rng = np.random.default_rng(0)
    return ImageList(
        [np.clip(background + rng.normal(0, 2, background.shape), 0, 255).astype(np.uint8) for _ in range(count)]
    )


class Rendered(ImageList):
    """A clip, each frame rendered once."""

    def __init__(self, clip: Clip) -> None:
        super().__init__([clip.frame(t) for t in range(len(clip))])
        self.clip = clip


def exact(clip: Clip) -> dict[str, np.ndarray]:
    """The renderer's homographies in the pipeline's arrays."""
    count = len(clip)
    neighbor = np.array([*range(1, count), count - 2])
    H = np.stack([clip.homography(int(u), t) for t, u in enumerate(neighbor)])
    nothing = np.zeros(count, np.int64)
    arrays = {"H": H, "neighbor": neighbor, "valid": np.ones(count, bool), "matches": nothing, "inliers": nothing}
    return arrays | {"reason": np.array([""] * count)}


def jaccard(value: np.ndarray, truth: np.ndarray) -> float:
    found = value > 0.5
    return (found & truth).sum() / max((found | truth).sum(), 1)
