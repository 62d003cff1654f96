"""Where somebody may rest: found by far frames, left open in the first round, decided by the student in the second."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from backdrop.motion.homography import save_homographies
from backdrop.motion.neighbors import StabilizedSequence
from backdrop.render.clip import Clip
from backdrop.student.cues import cue_names
from backdrop.student.cues.cue import Cue
from backdrop.student.pseudo_masks import Detection, Trust, Work, allocate, label_frames, pseudo_mask
from backdrop.student.resting import FAR_FRAMES, FAR_REACH, doubtful, far_frames, resting_evidence
from backdrop.student.targets import IGNORED
from tests.frame_archives import ImageList, write_sequences
from tests.student.clips import PARAMS, SIZE, Rendered, exact, jaccard

COUNT = 260
STANDS = 68
"""From here on the subject of `resting` stands."""

Moving = Callable[[int], np.ndarray]


@cache
def resting(mode: str) -> tuple[Clip, StabilizedSequence]:
    """A subject walks in and stands; every fourth frame is of use, as with `student.every` 4."""
    clip = Clip(3, mode, SIZE, COUNT, subject=0, rests=True)
    return clip, StabilizedSequence(Rendered(clip), exact(clip), SIZE)


def motion_of(clip: Clip, until: int) -> Moving:
    """What a perfect cue of motion says of a clip whose subject walks until then."""
    return lambda t: clip.mask(t).astype(np.float32) * (t < until)


@pytest.mark.parametrize("mode", ["static", "ptz"])
def test_whoever_stands_is_in_doubt_and_so_is_what_he_will_hide(mode: str) -> None:
    clip, sequence = resting(mode)
    for t in (80, 160, 256):
        doubt, truth = doubtful(sequence, t, 4, motion_of(clip, STANDS)), clip.mask(t)
        assert doubt[truth].mean() > 0.9
        assert doubt[~truth].mean() < 0.07, "his shadow, and little more"
    before = doubtful(sequence, 4, 4, motion_of(clip, STANDS))
    assert not clip.mask(4).any()
    assert before.mean() < 0.15
    if mode == "static":  # a camera that turns has moved on
        assert before[clip.mask(160)].mean() > 0.9


@pytest.mark.parametrize(("mode", "most"), [("static", 0.04), ("ptz", 0.04), ("handheld", 0.08)])
def test_whoever_keeps_walking_leaves_little_doubt(mode: str, most: float) -> None:
    """His shadow, which is not in the mask, and what a walking camera's homographies cannot lay right."""
    clip = Clip(4, mode, SIZE, 48, subject=1)
    sequence = StabilizedSequence(Rendered(clip), exact(clip), SIZE)
    assert np.mean([doubtful(sequence, t, 2, motion_of(clip, 48)).mean() for t in (0, 16, 32, 46)]) < most


def test_a_change_of_light_is_no_doubt() -> None:
    background = Clip(0, "static", SIZE, 2).background(0).astype(np.float32)
    bright = [1.0 if t < 20 else 0.75 for t in range(40)]
    sequence = StabilizedSequence(
        ImageList([np.clip(background * gain, 0, 255).astype(np.uint8) for gain in bright]),
        exact(Clip(0, "static", SIZE, 40)),
        SIZE,
    )
    nothing = np.zeros(SIZE[::-1], np.float32)
    assert doubtful(sequence, 10, 1, lambda t: nothing).mean() < 0.01


def test_whoever_stands_is_in_doubt_though_the_light_has_changed() -> None:
    clip, sequence = resting("static")
    images = [sequence.image(t) for t in range(COUNT)]
    dark = [np.rint(image * (0.7 if t < 130 else 1.0)).astype(np.uint8) for t, image in enumerate(images)]
    darkened = StabilizedSequence(ImageList(dark), exact(clip), SIZE)
    doubt, truth = doubtful(darkened, 160, 4, motion_of(clip, STANDS)), clip.mask(160)
    assert doubt[truth].mean() > 0.8
    assert doubt[~truth].mean() < 0.07


def test_far_frames_are_those_with_evidence_and_no_more_in_a_long_video_than_in_a_short_one() -> None:
    for count, every in ((8, 1), (90, 2), (400, 4), (100_000, 1), (100_000, 3)):
        for t in (0, count // 2, count - 1):
            found = far_frames(count, t, every)
            assert t not in found
            assert all(u % every == 0 and 0 <= u < count and abs(u - t) <= FAR_REACH for u in found)
            assert len(found) <= FAR_FRAMES + 2
    assert len(far_frames(400, 200, 4)) >= FAR_FRAMES - 2


def test_the_first_round_is_silent_there_and_the_second_follows_the_student() -> None:
    clip, sequence = resting("static")
    t, none = 160, np.zeros(SIZE[::-1], np.float32)
    moving, truth = motion_of(clip, STANDS), clip.mask(160)
    doubt, still = doubtful(sequence, t, 4, moving), Cue(none, np.ones(none.shape, bool))
    image, anywhere = sequence.image(t), np.ones_like(none)
    soft, known = pseudo_mask(image, still, still, anywhere, PARAMS, doubt=doubt)
    assert not soft.any()
    assert known[truth].mean() < 0.1
    assert known[~truth].mean() > 0.9
    unsure = truth * np.float32(0.45)
    unsure[:, : SIZE[0] // 4] = 0.45  # where nothing changed it may say what it likes
    soft, known = pseudo_mask(image, still, still, anywhere, PARAMS, student=unsure, doubt=doubt)
    assert jaccard(soft, truth) > 0.75
    assert known.all()
    soft, _ = pseudo_mask(image, still, still, anywhere, PARAMS, student=none, doubt=doubt)
    assert not soft.any(), "what the student does not know is background: somebody parked a car"


def test_the_first_labels_leave_him_open_and_without_the_key_they_say_background(tmp_path: Path) -> None:
    clip, sequence = resting("static")
    write_sequences(tmp_path, {"one": sequence.frames.images})  # type: ignore[attr-defined]
    save_homographies(tmp_path / "h.npz", exact(clip))
    params = PARAMS.model_copy(update={"size": SIZE, "every": 4, "resting": True})
    paths = (tmp_path / name for name in ("one.zip", "h.npz", "labels.npy", "evidence.npy", "m"))
    work = Work("one", *paths, None, COUNT)
    cues = np.full((COUNT, len(cue_names(params)), SIZE[1], SIZE[0]), IGNORED, np.uint8)
    for t in range(0, COUNT, 4):
        cues[t] = motion_of(clip, STANDS)(t) * (IGNORED - 1)
    np.save(work.evidence, cues)
    everywhere = Detection(np.tile([0.0, 0, 2, 2], (COUNT, 1)), np.zeros(COUNT))
    trust = Trust(dict.fromkeys(cue_names(params), 1.0), everywhere, 0.0)
    truth = clip.mask(160)
    for key, open_share in ((True, 0.9), (False, 0.0)):
        allocate(work.labels, (COUNT, SIZE[1], SIZE[0]), IGNORED)
        label_frames(work, range(158, 163), params.model_copy(update={"resting": key}), trust)
        labels = np.load(work.labels)
        assert (labels[[158, 159, 161]] == IGNORED).all(), "no label for frames that are left out"
        assert (labels[160][truth] == IGNORED).mean() == pytest.approx(open_share, abs=0.1)
        assert (labels[160][~truth] == 0).mean() > 0.9


def test_where_no_cue_knows_anything_a_far_frame_says_nothing(tmp_path: Path) -> None:
    clip, sequence = resting("static")
    write_sequences(tmp_path, {"one": sequence.frames.images})  # type: ignore[attr-defined]
    save_homographies(tmp_path / "h.npz", exact(clip))
    params = PARAMS.model_copy(update={"size": SIZE, "every": 4, "resting": True})
    work = Work("one", *(tmp_path / n for n in ("one.zip", "h.npz", "labels.npy", "evidence.npy", "m")), None, COUNT)
    cues = np.full((COUNT, len(cue_names(params)), SIZE[1], SIZE[0]), IGNORED, np.uint8)
    cues[160] = 0  # of this frame alone the cues say that nothing moves
    np.save(work.evidence, cues)
    allocate(work.labels, (COUNT, SIZE[1], SIZE[0]), IGNORED)
    everywhere = Detection(np.tile([0.0, 0, 2, 2], (COUNT, 1)), np.zeros(COUNT))
    trust = Trust(dict.fromkeys(cue_names(params), 1.0), everywhere, 0.0)
    label_frames(work, range(160, 161), params, trust)
    assert (np.load(work.labels)[160] == 0).all(), "no far frame is known to be still, so nothing is in doubt"


def test_evidence_at_rest_follows_the_outline_of_the_doubt() -> None:
    doubt = np.zeros((48, 80), bool)
    doubt[10:40, 20:40] = True
    blob = np.zeros((48, 80), np.float32)
    blob[8:38, 24:60] = 1
    evidence = resting_evidence(blob, doubt)
    assert evidence[20:30, 23].min() > 0.5, "a pixel beside the blob, inside the doubt"
    assert evidence[20, 30] == pytest.approx(1)
    assert resting_evidence(np.zeros_like(blob), doubt).max() == 0
