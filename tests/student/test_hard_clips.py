"""Pseudo-masks of the first round where there is little to learn from, and the network that is fitted to a sequence."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save

from backdrop.collage.samples import make_sample
from backdrop.io.frame_archive import FrameArchive
from backdrop.motion.homography import load_homographies
from backdrop.motion.neighbors import StabilizedSequence
from backdrop.networks.motion_network import fit_norms, load_motion_network, shipped_motion_network
from backdrop.render.clip import Clip
from backdrop.run.chunks import spread
from backdrop.student.cues import cue_names, frame_cues
from backdrop.student.cues.motion import FIT_FRAMES, fitted_network
from backdrop.student.fusion import consensus, fuse
from backdrop.student.pseudo_masks import Work, allocate, fit_motion, gather_cues, pseudo_mask
from backdrop.student.targets import IGNORED
from tests.frame_archives import ImageList
from tests.handmade_run import make_run
from tests.student.clips import PARAMS, SIZE, Rendered, exact, jaccard, still


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
    sequence = StabilizedSequence(still(14), exact(Clip(0, "static", SIZE, 14)), SIZE)
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


def test_the_norms_are_those_of_the_evidence_and_the_weights_stay() -> None:
    samples = [make_sample(31, number) for number in range(4)]
    flow, scene = [one.flow for one in samples], [one.scene for one in samples]
    shipped = shipped_motion_network()
    before = {key: value.clone() for key, value in shipped.state_dict().items()}
    fitted = fit_norms(shipped, flow, scene)
    with torch.inference_mode():
        batch = torch.from_numpy(np.stack(flow)).float(), torch.from_numpy(np.stack(scene)).float()
        alone = fitted(*batch)
        by_batch = deepcopy(shipped).train()(*batch)
        unfitted = shipped(*batch)
    assert float((alone - by_batch).abs().mean()) < 0.02, "equal but for the unbiased variance"
    assert float((alone - unfitted).abs().mean()) > 0.5
    for key, value in shipped.state_dict().items():
        assert torch.equal(value, before[key]), "the network that comes with the package is not touched"
        if "running" not in key and "num_batches" not in key:
            assert torch.equal(value, fitted.state_dict()[key])


def test_the_e_step_asks_the_network_that_was_fitted(tmp_path: Path) -> None:
    make_run(tmp_path, {"one": "train"}, frames=12)
    archive, homographies = tmp_path / "frames" / "one.zip", tmp_path / "homographies" / "one.npz"
    work = Work("one", archive, homographies, *(tmp_path / name for name in ("l", "e.npy", "m.safetensors")), None, 12)
    params = PARAMS.model_copy(update={"size": (64, 40), "every": 1, "cues": ["median", "motion"]})
    fit_motion(work, params)
    network = load_motion_network(work.motion)
    sequence = StabilizedSequence(FrameArchive(archive), load_homographies(homographies), params.size)
    expected = fitted_network(sequence, spread(range(12), FIT_FRAMES), params).state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in network.state_dict().items())
    torch.nn.init.zeros_(network.head[0].weight)
    torch.nn.init.constant_(network.head[0].bias, 9.0)
    work.motion.write_bytes(save(network.state_dict()))
    allocate(work.evidence, (12, 2, 40, 64), IGNORED)
    gather_cues(work, range(12), params)
    planes = np.load(work.evidence)[:, cue_names(params).index("motion")]
    assert (planes == IGNORED - 1).all(), "a network that is sure of everything"
