"""Cues that look at the superpixels of many frames at once: computed once a sequence, silent where nothing moves."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest

from backdrop.io.frame_archive import FrameArchive
from backdrop.motion.neighbors import StabilizedSequence
from backdrop.motion.regions.stretch import Stretch
from backdrop.render.clip import Clip
from backdrop.student.cues import frame_cues
from backdrop.student.cues.regions import REGION_CUES, STRETCH_FRAMES, region_masks, stretch_spans
from backdrop.student.pseudo_masks import Work, find_regions
from backdrop.student.targets import IGNORED
from tests.frame_archives import ImageList
from tests.handmade_run import make_run
from tests.student.clips import PARAMS, SIZE, Rendered, exact, jaccard, still


@pytest.fixture(scope="module")
def clip() -> Rendered:
    return Rendered(Clip(3, "ptz", SIZE, 20, subject=1))


@pytest.mark.parametrize("name", REGION_CUES)
def test_they_find_the_subject_before_a_turning_camera(name: str, clip: Rendered) -> None:
    planes = np.stack([plane for *_, plane in region_masks(StabilizedSequence(clip, exact(clip.clip), SIZE), [name])])
    assert planes.dtype == np.uint8
    assert planes.max() < IGNORED
    found = [jaccard(plane / (IGNORED - 1), clip.clip.mask(t)) for t, plane in enumerate(planes)]
    assert np.mean(found) > 0.6


@pytest.mark.parametrize("name", REGION_CUES)
def test_they_know_nothing_where_nothing_moves(name: str) -> None:
    noise = np.random.default_rng(0)
    plain = still(8)
    grainy = [np.clip(plain.image(t) + noise.normal(0, 3, (*SIZE[::-1], 3)), 0, 255).astype(np.uint8) for t in range(8)]
    homographies = exact(Clip(0, "static", SIZE, 8))
    for frames in (plain, ImageList(grainy), ImageList(grainy[:1])):
        count = len(frames)
        own = {key: value[:count] for key, value in homographies.items()}
        planes = [plane for *_, plane in region_masks(StabilizedSequence(frames, own, SIZE), [name])]
        assert len(planes) == count
        assert all((plane == IGNORED).all() for plane in planes)


def test_the_votes_of_frames_in_which_nothing_moves_are_none(clip: Rendered) -> None:
    shown = [*range(8), *[7] * 4]  # the subject freezes, and the camera with it
    frames = ImageList([clip.image(t) for t in shown])
    homographies = exact(clip.clip)
    own = {key: value[: len(shown)].copy() for key, value in homographies.items()}
    own["H"][7:] = np.eye(3)
    own["neighbor"][-1] = len(shown) - 2
    stretch = Stretch(StabilizedSequence(frames, own, SIZE), range(len(shown)))
    assert [stretch.moves(t) for t in range(len(shown))] == [True] * 7 + [False] * 5
    assert stretch.speed(3).max() == 1
    assert stretch.speed(9).max() == 0


def test_long_sequences_are_looked_at_in_stretches_of_nearly_equal_length() -> None:
    for count in (1, 119, 120, 121, 1000):
        spans = stretch_spans(count)
        assert [t for span in spans for t in span] == list(range(count))
        lengths = [len(span) for span in spans]
        assert max(lengths) <= STRETCH_FRAMES
        assert max(lengths) - min(lengths) <= 1


def test_a_stretch_lets_its_flow_go_with_it_and_waits_for_no_garbage_collector(clip: Rendered) -> None:
    gc.disable()
    try:
        stretch = Stretch(StabilizedSequence(clip, exact(clip.clip), SIZE), range(20))
        assert stretch.flow(3) is stretch.flow(3)
        gone = weakref.ref(stretch.flow(3).flow)
        del stretch
        assert gone() is None
    finally:
        gc.enable()


def test_what_computes_cues_does_not_load_torchvision() -> None:
    """It takes 80 MB of each process and more than a second."""
    code = "import sys, backdrop.student.pseudo_masks; raise SystemExit('torchvision' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_stretch_counts_from_its_first_frame(clip: Rendered) -> None:
    sequence = StabilizedSequence(clip, exact(clip.clip), SIZE)
    whole, part = Stretch(sequence, range(20)), Stretch(sequence, range(6, 12))
    assert len(part) == 6
    assert np.array_equal(part.image(2), whole.image(8))
    assert np.array_equal(part.flow(2).flow, whole.flow(8).flow)
    onward = part.onward(2)
    assert onward is not None
    assert np.allclose(onward, whole.onward(8))


def test_outside_of_the_region_of_interest_no_flow_is_known(clip: Rendered) -> None:
    region = np.ones(SIZE[::-1], bool)
    region[:, : SIZE[0] // 2] = False
    stretch = Stretch(StabilizedSequence(clip, exact(clip.clip), SIZE, region=region), range(4))
    assert not stretch.flow(1).valid[~region].any()
    assert stretch.flow(1).valid[region].any()


def test_they_take_part_where_they_were_computed(tmp_path: Path) -> None:
    make_run(tmp_path, {"one": "train"}, 6)
    params = PARAMS.model_copy(update={"cues": ["median", "nlc"]})
    paths = [tmp_path / name for name in ("labels.npy", "evidence.npy", "motion.safetensors")]
    work = Work("one", tmp_path / "frames" / "one.zip", tmp_path / "homographies" / "one.npz", *paths, None, 6)
    find_regions(work, ["fast_motion", "nlc"], params)
    stored = np.load(work.regions("nlc"))
    assert stored.shape == (6, params.size[1], params.size[0])
    frames = FrameArchive(work.frames)
    sequence = StabilizedSequence(frames, dict(np.load(work.homographies)), params.size)
    assert "nlc" not in frame_cues(sequence, 2, params)
    cue = frame_cues(sequence, 2, params, regions={"nlc": stored})["nlc"]
    assert np.allclose(cue.value * (IGNORED - 1), stored[2] * (stored[2] != IGNORED), atol=0.01)
