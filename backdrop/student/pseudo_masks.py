"""Pseudo-masks of frames, from their cues. `e_step` calls this for all training frames."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8
from safetensors.torch import save

from backdrop.crf.dense import refine
from backdrop.io.files import atomic_path, writing
from backdrop.io.frame_archive import FrameArchive
from backdrop.io.masks import Soft, box_pixels
from backdrop.measures import jaccard
from backdrop.motion.blobs import subject_component
from backdrop.motion.homography import Homographies, load_homographies
from backdrop.motion.neighbors import StabilizedSequence
from backdrop.motion.parameters import StabilizeParams
from backdrop.networks.motion_network import load_motion_network
from backdrop.run.chunks import cached_open, spread
from backdrop.run.space import take_room
from backdrop.student.camera import refit
from backdrop.student.cues import cue_names, frame_cues
from backdrop.student.cues.cue import Cue
from backdrop.student.cues.motion import FIT_FRAMES, fitted_network
from backdrop.student.cues.regions import REGION_CUES, region_masks
from backdrop.student.fusion import consensus, fuse
from backdrop.student.parameters import StudentParams
from backdrop.student.resting import FAR_FRAMES, doubtful, resting_evidence
from backdrop.student.targets import IGNORED

CONSENSUS_FRAMES = 40
"""Frames of a sequence, spread over it, by which the weights of its cues are judged."""

UNLIKE = 0.5
"""Share of a sequence's median overlap below which a frame teaches nothing (see `leave_out`)."""

LABEL_CHUNK = 25
"""Frames a task of the E-step: few enough to keep all cores busy, many enough that neighbors are read once."""


class Detection(NamedTuple):
    """What D says of a sequence. box: (N, 4) as in `networks.spatial`; confidence: (N,) largest cell probability."""

    box: np.ndarray
    confidence: np.ndarray


class Trust(NamedTuple):
    """How far the sources of a sequence's pseudo-masks are to be trusted.

    cues: the weights of the cues by name. detection: what D says. detector: how far to follow D, in [0, 1].
    """

    cues: dict[str, float]
    detection: Detection
    detector: float


def box_window(box: Float[np.ndarray, "4"], size: tuple[int, int]) -> Float32[np.ndarray, "H W"]:
    """1 inside the box (a tenth larger on each side), falling to 0 within a quarter of its size around it."""
    left, top, right, bottom = box_pixels(box, size)
    falls = []
    for low, high, count in ((left, right, size[0]), (top, bottom, size[1])):
        outside = np.abs(np.arange(count) + 0.5 - (low + high) / 2) / max((high - low) / 2, 1) - 1.2
        falls.append(np.clip(1 - outside / 0.5, 0, 1))
    return np.outer(falls[1], falls[0]).astype(np.float32)


def agreement(evidence: Soft, window: Float32[np.ndarray, "H W"]) -> float:
    """How far D and the evidence agree: share of the evidence inside the window beyond what chance puts there.

    1: all of it lies inside; 0: no more than the window's own share of the image (or there is no evidence).
    """
    total, area = float(evidence.sum()), float(window.mean())
    if total < 1 or area > 0.98:
        return 0.0
    inside = float((evidence * window).sum()) / total
    return max(0.0, (inside - area) / (1 - area))


def pseudo_mask(
    image: UInt8[np.ndarray, "H W 3"],
    fused: Cue,
    median: Cue | None,
    weight: Float32[np.ndarray, "H W"],
    params: StudentParams,
    *,
    student: Soft | None = None,
    trust: float = 1.0,
    doubt: Bool[np.ndarray, "H W"] | None = None,
) -> tuple[Soft, Bool[np.ndarray, "H W"]]:
    """The soft pseudo-mask of a frame and where it is known.

    A weighted mean of the subject's component, of that component after the CRF (twice), of the median cue near it,
    and of the student's mask of the round before, which also takes part in the evidence with a share of
    `params.memory`: an E-step that goes wrong must not undo what was learned.

    Args:
        weight: where the subject is expected, in the choice of the component. Not asked where there may be several
            subjects: D finds one of them, and the student may not know the others yet.
        trust: weight of the median cue, in [0, 1].
        doubt: where somebody may rest (`resting`). There the student decides; without one nothing is known.
    """
    evidence = fused.value
    doubt = np.zeros(evidence.shape, bool) if doubt is None else doubt
    told = fused.valid & ~doubt if student is None else fused.valid
    if student is not None:
        evidence = (1 - params.memory) * evidence + params.memory * student
        evidence = np.where(doubt, resting_evidence(student, doubt), evidence)
        weight = weight * (0.2 + student)
    if params.subjects > 1:
        weight = np.ones_like(weight)
    component = subject_component(evidence, weight, subjects=params.subjects)
    if not component.any():
        return np.zeros(component.shape, np.float32), told & (evidence < 0.25)
    soft = component.astype(np.float32)
    votes = [(1.0, soft), (2.0, refine(image, soft, 0.5, params.crf).astype(np.float32))]
    if median is not None:
        side = 2 * max(2, image.shape[0] // 24) + 1
        near = cv2.dilate(soft, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)))
        votes.append((trust, np.where(median.valid & ~doubt, median.value * near, soft)))
    if student is not None and params.memory:
        votes.append((1.0, student))
    mean = np.sum([share * vote for share, vote in votes], axis=0) / sum(share for share, _ in votes)
    return mean.astype(np.float32), told | component


class Work(NamedTuple):
    """The E-step's view of one training sequence; all paths, so that a task can be sent to any process.

    labeled: frames that people labeled. They are used though `student.every` leaves them out.
    """

    name: str
    frames: Path
    homographies: Path
    labels: Path
    evidence: Path
    motion: Path
    masks: Path | None
    count: int  # type: ignore[assignment]
    labeled: frozenset[int] = frozenset()

    def regions(self, cue: str) -> Path:
        """The file of a cue that is computed for the whole sequence (`cues.regions`)."""
        return self.motion.with_name(f"{cue}.npy")

    @property
    def activations(self) -> Path:
        """The student's activation maps of frames that somebody tagged, by their numbers."""
        return self.labels.with_name("activations.npz")

    def uses(self, t: int, every: int) -> bool:
        """Whether frame t gets a pseudo-mask."""
        return t % every == 0 or t in self.labeled


def stabilized_frames(work: Work, size: tuple[int, int], params: StudentParams) -> StabilizedSequence:
    """The sequence as the E-step sees it, with the student's masks of the round before, if there are some."""
    masks = None if work.masks is None else np.load(work.masks, mmap_mode="r")
    reader = None if masks is None else (lambda t: masks[t].astype(np.float32) / 255)
    reach = 2 * (params.neighbors // 2 + 1) * params.spacing + LABEL_CHUNK
    frames, homographies = cached_open(FrameArchive, work.frames), cached_open(load_homographies, work.homographies)
    return StabilizedSequence(frames, homographies, size, reader, reach, region=frames.region)


def fit_motion(work: Work, params: StudentParams) -> None:
    """Write the motion network that is fitted to a sequence to `work.motion`."""
    cv2.setNumThreads(1)
    sequence = stabilized_frames(work, params.size, params)
    network = fitted_network(sequence, spread(range(work.count), FIT_FRAMES), params)
    with atomic_path(work.motion) as temporary:
        temporary.write_bytes(save(network.state_dict()))


def find_regions(work: Work, cues: Sequence[str], params: StudentParams) -> None:
    """Write cues that are computed for the whole sequence to `work.regions(cue)`: (N, H, W) uint8."""
    cv2.setNumThreads(1)
    width, height = params.size
    with ExitStack() as stack:
        out = {}
        for cue in cues:
            temporary = stack.enter_context(atomic_path(work.regions(cue)))
            allocate(temporary, (work.count, height, width), IGNORED)
            out[cue] = np.load(temporary, mmap_mode="r+")
        for cue, t, plane in region_masks(stabilized_frames(work, params.size, params), cues):
            out[cue][t] = plane
        for planes in out.values():
            planes.flush()


def gather_cues(work: Work, span: range, params: StudentParams) -> None:
    """The cues of some frames into `work.evidence`: (N, cues, H, W) uint8, in the order of `cue_names`."""
    cv2.setNumThreads(1)
    sequence = stabilized_frames(work, params.size, params)
    network = cached_open(load_motion_network, work.motion) if "motion" in params.cues else None
    out = np.load(work.evidence, mmap_mode="r+")
    chosen = [cue for cue in cue_names(params) if cue in REGION_CUES]
    regions: dict[str, np.ndarray] = {cue: np.load(work.regions(cue), mmap_mode="r") for cue in chosen}
    for t in span:
        if not work.uses(t, params.every):
            continue
        cues = frame_cues(sequence, t, params, network, regions)
        for plane, name in zip(out[t], cue_names(params), strict=True):
            if name in cues:
                plane[:] = np.where(cues[name].valid, np.rint(cues[name].value * (IGNORED - 1)), IGNORED)
    out.flush()


def read_cues(planes: UInt8[np.ndarray, "K H W"], params: StudentParams) -> dict[str, Cue]:
    """The cues that `gather_cues` wrote of a frame; those it did not have are valid nowhere and left out."""
    cues = {
        name: Cue((plane % IGNORED).astype(np.float32) / (IGNORED - 1), plane != IGNORED)
        for name, plane in zip(cue_names(params), planes, strict=True)
    }
    return {name: cue for name, cue in cues.items() if cue.valid.any()}


def weigh_cues(work: Work, params: StudentParams) -> dict[str, float]:
    """The weights of a sequence's cues, by their consensus."""
    cv2.setNumThreads(1)
    evidence = np.load(work.evidence, mmap_mode="r")
    some = spread(range(0, work.count, params.every), CONSENSUS_FRAMES)
    weights = consensus([read_cues(evidence[t], params) for t in some], params.size, params.consensus, params.subjects)
    return dict.fromkeys(cue_names(params), 1e-4) | weights


def label_frames(work: Work, span: range, params: StudentParams, trust: Trust) -> list[float]:
    """Pseudo-masks of some frames into `work.labels`: (N, H, W) uint8.

    Outside of the region of interest they say that nothing is known. To call it background would teach the student
    that what looks like the subject (the animal in the cage beside) is none.

    Returns:
        J of each frame's pseudo-mask with the student's mask of the round before; NaN where one of them is not there.
    """
    box, confidence = trust.detection
    cv2.setNumThreads(1)
    sequence = stabilized_frames(work, params.size, params)
    evidence = np.load(work.evidence, mmap_mode="r")
    out = np.load(work.labels, mmap_mode="r+")

    @lru_cache(maxsize=2 * FAR_FRAMES)
    def moving(t: int) -> np.ndarray:
        fused = fuse(read_cues(evidence[t], params), params.size, trust.cues)
        return np.where(fused.valid, fused.value, 1)  # where no cue knows, something may move

    overlaps = [np.nan] * len(span)
    for i, t in enumerate(span):
        if not work.uses(t, params.every):
            continue
        cues, student = read_cues(evidence[t], params), sequence.subject(t)
        fused = fuse(cues, params.size, trust.cues)
        weight = 1 - trust.detector * confidence[t] * (1 - box_window(box[t], params.size))
        soft, known = pseudo_mask(
            sequence.image(t),
            fused,
            cues.get("median", fused),
            weight.astype(np.float32),
            params,
            student=student,
            trust=trust.cues.get("median", 1.0),
            doubt=doubtful(sequence, t, params.every, moving) if params.resting else None,
        )
        if sequence.region is not None:
            known &= sequence.region  # the CRF and closed holes may reach beyond it
        out[t] = np.where(known, np.rint(soft * (IGNORED - 1)), IGNORED)
        if student is not None and (soft > 0.5).any():
            overlaps[i] = jaccard(student > 0.5, soft > 0.5)
    out.flush()
    return overlaps


def leave_out(work: Work, overlaps: Float[np.ndarray, "N"]) -> None:
    """Take the frames out of `work.labels` whose pseudo-mask and student's mask overlap far less than usual.

    One of the two is wrong there, and nothing says which. (The idea is that of AutoQ-VIS, which drops the loss where
    nothing overlaps.) A student that knows nothing yet overlaps nowhere, and then no frame is left out.

    Args:
        overlaps: of all frames, as `label_frames` returns them.
    """
    if np.isnan(overlaps).all():
        return
    labels = np.load(work.labels, mmap_mode="r+")
    for t in np.flatnonzero(overlaps < UNLIKE * np.nanmedian(overlaps)):
        labels[t] = IGNORED
    labels.flush()


def refit_chunk(work: Work, span: range, params: StabilizeParams) -> Homographies:
    """The homographies of some frames, from the background alone."""
    cv2.setNumThreads(1)
    masks = np.load(work.masks, mmap_mode="r")  # type: ignore[arg-type]
    frames, homographies = cached_open(FrameArchive, work.frames), cached_open(load_homographies, work.homographies)
    region = frames.region
    fresh = refit(frames, homographies, lambda t: masks[t].astype(np.float32) / 255, params, span, region=region)
    return {key: value[span.start : span.stop] for key, value in fresh.items()}


def allocate(path: Path, shape: tuple[int, ...], fill: int) -> None:
    """A .npy file of uint8 on disk, written without holding it in memory.

    Raises:
        WriteError: the disk is full.
    """
    with writing(path):
        array = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
        with path.open("r+b") as file:
            take_room(file, path.stat().st_size)
    if fill:
        for row in array:
            row[...] = fill
    array.flush()
