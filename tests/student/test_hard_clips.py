"""Pseudo-masks of the first round where there is little to learn from: nothing moves, nobody is there, or a cut."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from backdrop.motion.neighbors import StabilizedSequence
from backdrop.networks.motion_network import shipped_motion_network
from backdrop.render.clip import Clip
from backdrop.student.cues import frame_cues
from backdrop.student.cues.motion import fitted_network
from backdrop.student.fusion import consensus, fuse
from backdrop.student.pseudo_masks import pseudo_mask
from tests.frame_archives import ImageList
from tests.small_pipeline import small_params
from tests.student.clips import Rendered, exact, jaccard

SIZE = (160, 96)
CHOICE = {"cues": ["motion", "layers", "median", "mog2"], "neighbors": 8, "spacing": 3, "parallax": True}
PARAMS = small_params().student.model_copy(update=CHOICE)


def first_round(sequence: StabilizedSequence, count: int) -> dict[int, np.ndarray]:
    """The pseudo-masks of each second frame, as the E-step makes them without student and detector."""
    frames = range(0, count, 2)
    network = fitted_network(sequence, frames, PARAMS)
    cues = {t: frame_cues(sequence, t, PARAMS, network) for t in frames}
    weights = consensus(list(cues.values()), SIZE, PARAMS.consensus)
    anywhere = np.ones(SIZE[::-1], np.float32)
    found = {}
    for t, one in cues.items():
        fused = fuse(one, SIZE, weights)
        found[t], _ = pseudo_mask(sequence.image(t), fused, one.get("median"), anywhere, PARAMS)
    return found


def mean_j(found: dict[int, np.ndarray], truth: Callable[[int], np.ndarray], frames: range) -> float:
    return float(np.mean([jaccard(found[t], truth(t)) for t in frames]))


def test_where_nothing_moves_there_is_no_pseudo_mask_and_the_network_is_not_fitted_to_noise() -> None:
    rng = np.random.default_rng(0)
    scene = Clip(0, "static", SIZE, 2).background(0).astype(np.float32)
    noisy = [np.clip(scene + rng.normal(0, 2, scene.shape), 0, 255).astype(np.uint8) for _ in range(14)]
    sequence = StabilizedSequence(ImageList(noisy), exact(Clip(0, "static", SIZE, 14)), SIZE)
    assert fitted_network(sequence, range(0, 14, 2), PARAMS) is shipped_motion_network()
    assert not any(mask.any() for mask in first_round(sequence, 14).values())


@pytest.mark.parametrize("mode", ["static", "ptz"])
def test_where_the_subject_is_out_of_view_there_is_no_pseudo_mask(mode: str) -> None:
    clip = Clip(4, mode, SIZE, 40, subject=1, presence=True)
    found = first_round(StabilizedSequence(Rendered(clip), exact(clip), SIZE), 40)
    absent = [t for t in found if not clip.mask(t).any()]
    assert len(absent) == 5
    assert max(float((found[t] > 0.5).mean()) for t in absent) < 0.002
    assert mean_j(found, clip.mask, range(0, 25, 2)) > 0.65


def test_a_cut_costs_the_frames_beside_it_and_no_others() -> None:
    before = Clip(5, "ptz", SIZE, 20, subject=1)
    after = Clip(6, "handheld", SIZE, 20, subject=1, town=2, stretch=3)
    parts = [exact(before), exact(after)]
    homographies = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    homographies["neighbor"][20:] += 20
    homographies["neighbor"][19], homographies["valid"][19] = 20, False
    images = ImageList([clip.frame(t) for clip in (before, after) for t in range(20)])
    found = first_round(StabilizedSequence(images, homographies, SIZE), 40)

    def truth(t: int) -> np.ndarray:
        return before.mask(t) if t < 20 else after.mask(t - 20)

    assert mean_j(found, truth, range(0, 18, 2)) > 0.65
    assert mean_j(found, truth, range(26, 40, 2)) > 0.65
