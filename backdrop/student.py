"""Self-training rounds: label-free cues become pseudo-masks, and a single-image student learns from them.

One round is an E-step and an M-step:

    E  cues of each training frame (`backdrop.cues`), from the second round on with the student's masks: the camera
       is estimated on the background alone, and the known background leaves the subject out
       -> pseudo-masks: the component that the detector D points at, refined
    M  the student learns them by binary cross-entropy

The student amortizes: what is wrong in one frame's cues but unlike the subject elsewhere, it does not learn.
No ground truth is read here. Frames of test and validation sequences are never seen.
"""

from __future__ import annotations

import os
import shutil
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float32, UInt8
from torch import Tensor

from backdrop import ranks
from backdrop.chunks import kept, spans
from backdrop.crf import refine
from backdrop.cues import Cue, Footage, consensus, cue_names, frame_cues, fuse, refit
from backdrop.encoder import normalize
from backdrop.flow import FlowArchive
from backdrop.homography import Homographies, load_homographies, save_homographies
from backdrop.loop import (
    Checkpoints,
    Learner,
    TrainingFrames,
    cosine,
    frame_names,
    generator_at,
    loader_workers,
    log_row,
    make_fabric,
    open_live,
    progress,
    run_key,
)
from backdrop.masks import Soft, box_pixels, copy_files
from backdrop.params import StabilizeParams, StudentParams
from backdrop.processes import collect, pool
from backdrop.scores import best_threshold, jaccard
from backdrop.segmenter import Segmenter
from backdrop.unet import Student, StudentNetwork, near_subject, subject_component
from backdrop.video import FrameArchive, whole_folder, writing
from backdrop.weights import load_network, save_network

CONSENSUS_FRAMES = 40
"""Frames of a sequence, spread over it, by which the weights of its cues are judged."""
CHUNK = 25
"""Frames a task of the E-step: few enough to keep all cores busy, many enough that neighbors are read once."""
THRESHOLD_FRAMES = 120
"""Frames of all sequences together by which the student's own threshold is chosen, as many of each."""
LEVELS = [0.1, 0.2, 0.3, 0.4, 0.5]
"""Thresholds among which the student's own is chosen. None above one half: it would take back what the student found
beyond its pseudo-masks (on DAVIS's dog, .6 agrees best with them and leaves out more of the legs)."""
IGNORED = 255
"""Pseudo-masks are stored as 0..254 for 0..1; this value says that nothing is known."""


# Pseudo-masks -----------------------------------------------------------------------------------------


class Detection(NamedTuple):
    """What D says of a sequence. box: (N, 4) as in `backdrop.spatial`; confidence: (N,) largest cell probability."""

    box: np.ndarray
    confidence: np.ndarray


def pointing(box: Float[np.ndarray, "4"], size: tuple[int, int]) -> Float32[np.ndarray, "H W"]:
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
    student: Soft | None = None,
    trust: float = 1.0,
) -> tuple[Soft, Bool[np.ndarray, "H W"]]:
    """The soft pseudo-mask of a frame and where it is known.

    A weighted mean of the subject's component, of that component after the CRF (twice), of the median cue near it,
    and of the student's mask of the round before, which also takes part in the evidence with a share of
    `params.memory`: an E-step that goes wrong must not undo what was learned.

    Args:
        weight: where the subject is expected, in the choice of the component. Not asked where there may be several
            subjects: D points at one of them, and the student may not know the others yet.
        trust: weight of the median cue, in [0, 1].
    """
    evidence = fused.value
    if student is not None:
        evidence = (1 - params.memory) * evidence + params.memory * student
        weight = weight * (0.2 + student)
    if params.subjects > 1:
        weight = np.ones_like(weight)
    component = subject_component(evidence, weight, subjects=params.subjects)
    if not component.any():
        return np.zeros(component.shape, np.float32), fused.valid & (evidence < 0.25)
    soft = component.astype(np.float32)
    votes = [(1.0, soft), (2.0, refine(image, soft, 0.5, params.crf).astype(np.float32))]  # type: ignore[arg-type]
    if median is not None:
        side = 2 * max(2, image.shape[0] // 24) + 1
        near = cv2.dilate(soft, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)))
        votes.append((trust, np.where(median.valid, median.value * near, soft)))
    if student is not None and params.memory:
        votes.append((1.0, student))
    mean = np.sum([share * vote for share, vote in votes], axis=0) / sum(share for share, _ in votes)
    return mean.astype(np.float32), fused.valid | component


# E-step over sequences --------------------------------------------------------------------------------


class Work(NamedTuple):
    """The E-step's view of one training sequence; all paths, so that a task can be sent to any process."""

    name: str
    frames: Path
    homographies: Path
    flow: Path
    labels: Path
    evidence: Path
    masks: Path | None
    count: int  # type: ignore[assignment]


def _footage(work: Work, size: tuple[int, int], params: StudentParams) -> Footage:
    masks = None if work.masks is None else np.load(work.masks, mmap_mode="r")
    reader = None if masks is None else (lambda t: masks[t].astype(np.float32) / 255)
    reach = 2 * (params.neighbors // 2 + 1) * params.spacing + CHUNK
    frames, homographies = kept(FrameArchive, work.frames), kept(load_homographies, work.homographies)
    return Footage(frames, homographies, size, reader, reach)


def _gather(work: Work, span: range, params: StudentParams) -> None:
    """The cues of some frames into `work.evidence`: (N, cues, H, W) uint8, in the order of `cue_names`."""
    cv2.setNumThreads(1)
    footage = _footage(work, params.size, params)
    stored = kept(FlowArchive, work.flow)
    out = np.load(work.evidence, mmap_mode="r+")
    for t in span:
        if t % params.every:
            continue
        cues = frame_cues(footage, t, params, stored)  # type: ignore[arg-type]
        for plane, name in zip(out[t], cue_names(params), strict=True):  # type: ignore[arg-type]
            if name in cues:
                plane[:] = np.where(cues[name].valid, np.rint(cues[name].value * (IGNORED - 1)), IGNORED)
    out.flush()


def _read(planes: UInt8[np.ndarray, "K H W"], params: StudentParams) -> dict[str, Cue]:
    """The cues that `_gather` wrote of a frame; those it did not have are valid nowhere and left out."""
    cues = {
        name: Cue((plane % IGNORED).astype(np.float32) / (IGNORED - 1), plane != IGNORED)
        for name, plane in zip(cue_names(params), planes, strict=True)  # type: ignore[arg-type]
    }
    return {name: cue for name, cue in cues.items() if cue.valid.any()}


def _weigh(work: Work, params: StudentParams) -> dict[str, float]:
    """The weights of a sequence's cues, by their consensus."""
    cv2.setNumThreads(1)
    evidence = np.load(work.evidence, mmap_mode="r")
    used = np.arange(0, work.count, params.every)
    some = used[np.linspace(0, len(used) - 1, min(CONSENSUS_FRAMES, len(used))).round().astype(int)]
    weights = consensus([_read(evidence[t], params) for t in some], params.size, params.consensus, params.subjects)
    return dict.fromkeys(cue_names(params), 1e-4) | weights  # type: ignore[arg-type]


def _label(
    work: Work, span: range, params: StudentParams, weights: dict[str, float], detection: Detection, trust: float
) -> None:
    """Pseudo-masks of some frames into `work.labels`: (N, H, W) uint8."""
    cv2.setNumThreads(1)
    footage = _footage(work, params.size, params)
    evidence = np.load(work.evidence, mmap_mode="r")
    out = np.load(work.labels, mmap_mode="r+")
    for t in span:
        if t % params.every:
            continue
        cues = _read(evidence[t], params)
        fused = fuse(cues, params.size, weights)
        weight = 1 - trust * detection.confidence[t] * (1 - pointing(detection.box[t], params.size))
        soft, known = pseudo_mask(
            footage.image(t),
            fused,
            cues.get("median", fused),
            weight.astype(np.float32),
            params,
            footage.subject(t),
            weights.get("median", 1.0),
        )
        out[t] = np.where(known, np.rint(soft * (IGNORED - 1)), IGNORED)
    out.flush()


def _refit(work: Work, span: range, params: StabilizeParams, size: tuple[int, int]) -> Homographies:
    """The homographies of some frames, from the background alone."""
    cv2.setNumThreads(1)
    masks = np.load(work.masks, mmap_mode="r")  # type: ignore[arg-type]
    frames, homographies = kept(FrameArchive, work.frames), kept(load_homographies, work.homographies)
    fresh = refit(frames, homographies, lambda t: masks[t].astype(np.float32) / 255, params, span)
    return {key: value[span.start : span.stop] for key, value in fresh.items()}


def _allocate(path: Path, shape: tuple[int, ...], fill: int) -> None:
    """A .npy file of uint8 on disk, written without holding it in memory.

    Raises:
        WriteError: the disk is full.
    """
    with writing(path):
        array = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
        with path.open("r+b") as file:  # a map that the disk has no room for is no error but a killed process
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    if fill:
        for row in array:
            row[...] = fill
    array.flush()


# M-step -----------------------------------------------------------------------------------------------


def augment(
    image: Float[Tensor, "B 3 H W"], label: Float[Tensor, "B 2 H W"], generator: torch.Generator
) -> tuple[Float[Tensor, "B 3 H W"], Float[Tensor, "B 2 H W"]]:
    """Random affine and color changes, an image each.

    Convention: image coordinates in [-1, 1], align_corners=False; the drawn matrices map output to input positions.

    Args:
        image: RGB in [0, 1].
        label: mask, and weight (0: ignored; so is what lies outside the image).
    """
    count, device = len(image), image.device

    def draw(*shape: int) -> Tensor:  # in [-1, 1]
        return (ranks.rand(count, *shape, generator=generator) * 2 - 1).to(device, non_blocking=True)

    aspect = image.shape[3] / image.shape[2]
    zoom, angle = torch.exp(0.35 * draw()), 0.25 * draw()
    mirror = torch.sign(draw())
    stretch = torch.exp(0.1 * draw())
    cos, sin = angle.cos() / zoom, angle.sin() / zoom
    shift = 0.25 * draw(2)
    theta = torch.stack(
        [cos * stretch * mirror, -sin / aspect, shift[:, 0], sin * aspect * mirror, cos / stretch, shift[:, 1]], dim=1
    ).reshape(count, 2, 3)
    grid = F.affine_grid(theta, list(image.shape), align_corners=False)
    image = F.grid_sample(image, grid, padding_mode="reflection", align_corners=False)
    label = F.grid_sample(label, grid, padding_mode="zeros", align_corners=False)
    gray = image.mean(dim=1, keepdim=True)
    image = gray + (image - gray) * (1 + 0.3 * draw(1, 1, 1))
    image = (image - 0.5) * (1 + 0.25 * draw(1, 1, 1)) + 0.5 + 0.12 * draw(1, 1, 1) + 0.05 * draw(3, 1, 1)
    return image.clamp(0, 1), label


def targets(stored: UInt8[Tensor, "B H W"], band: tuple[float, float] | None) -> Float[Tensor, "B 2 H W"]:
    """Stored pseudo-masks -> mask and weight.

    Args:
        band: soft values below it become 0, above it 1, inside it weigh nothing; None: soft masks stay soft. (Soft
            masks shrink from round to round.)
    """
    known = stored != IGNORED
    soft = stored.float() / (IGNORED - 1)
    if band is None:
        return torch.stack([soft.clamp(max=1) * known, known.float()], dim=1)
    hard = (soft > band[1]) & known
    return torch.stack([hard.float(), (known & ((soft <= band[0]) | hard)).float()], dim=1)


def student_loss(logits: Float[Tensor, "B 1 H W"], label: Float[Tensor, "B 2 H W"]) -> Tensor:
    """Binary cross-entropy over the pixels of the whole batch that weigh something."""
    mask, weight = label[:, :1], label[:, 1:]
    loss = F.binary_cross_entropy_with_logits(logits, mask, reduction="none")
    return (loss * weight).sum() / ranks.mean(weight.sum()).clamp(min=1)


# Rounds -----------------------------------------------------------------------------------------------


class SelfTraining:
    """The rounds; `run` trains to the end and writes the model folder with D, S and the student.

    Args:
        params: student, stabilize, seed, compute.
        joint_dir: model folder of stage train.
        checkpoint_dir: holds, until the end, the resume state and the E-step's files.
    """

    def __init__(
        self,
        params: SimpleNamespace,
        joint_dir: Path,
        frames_dir: Path,
        homographies_dir: Path,
        flow_dir: Path,
        log_dir: Path,
        checkpoint_dir: Path,
    ) -> None:
        self.params, self.student = params, params.student
        self.joint_dir, self.log_dir = joint_dir, log_dir
        self.folders = frames_dir, homographies_dir, flow_dir
        self.fabric = make_fabric(params.compute)
        self.fabric.seed_everything(params.seed, verbose=False)
        self.data = TrainingFrames(frames_dir, None, self.student.size)
        self.data.items = [(s, t) for s, t in self.data.items if t % self.student.every == 0]
        self.network = StudentNetwork(self.student.channels).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.fabric.launch()
        # Fused on a GPU, where it may not wait; its rounding on a processor differs from the plain one's.
        optimizer = torch.optim.AdamW(
            self.network.parameters(),
            lr=self.student.rate,
            weight_decay=1e-3,
            fused=self.fabric.device.type == "cuda" or None,
        )
        parts = [self.network] if params.compute.compile else []
        self.learner = Learner(self.fabric, self.network, optimizer, parts)
        key = run_key(
            "student",
            [params.seed, self.student, params.stabilize],
            frames_dir / "index.csv",
            joint_dir / "model.safetensors",
        )
        self.checkpoints = Checkpoints(checkpoint_dir, key)
        self.scratch = checkpoint_dir / key

    def run(self, out_dir: Path) -> None:
        """From the last checkpoint (or the start) to the end."""
        self.scratch.mkdir(parents=True, exist_ok=True)
        state = self.checkpoints.load()
        first, start, history = 0, 0, []
        # Within a round the pseudo-masks must be at hand: the weights they came from are gone.
        if state is not None and (not state["iteration"] or ranks.broadcast(self._whole(state["round"]).exists())):
            self.network.load_state_dict(state["network"])
            self.learner.optimizer.load_state_dict(state["optimizer"])
            first, start, history = state["round"], state["iteration"], state["history"]
        with open_live(self.log_dir, history) as live:
            for number in range(first, self.student.rounds):
                labels = self._expect(number)
                self._maximize(number, start, labels, live, history)
                start = 0
        labels = self._expect(self.student.rounds - 1)
        if ranks.rank() == 0:
            save_network(out_dir, *self._model(self._threshold(labels)))
            self.checkpoints.clear()
            shutil.rmtree(self.scratch, ignore_errors=True)

    # E-step

    def _expect(self, number: int) -> list[np.ndarray]:
        """The pseudo-masks of a round, one array a sequence; computed once, by the first rank, found again by a
        resumed run."""
        works = [self._work(number, archive) for archive in self.data.frames]
        whole = self._whole(number)
        with ranks.first_alone() as first:
            if first and not whole.exists():
                with pool(self.params.compute) as workers:
                    self._write_labels(number, works, workers)
                whole.touch()
        return [np.load(work.labels, mmap_mode="r") for work in works]

    def _write_labels(self, number: int, works: list[Work], workers: int) -> None:
        """Write the pseudo-masks of a round; from the second on with the masks of the student as it stands."""
        if number:
            self._predict(works)
            works = self._refit(works, workers) if self.student.refit else works
        kinds = len(cue_names(self.student))
        for work in works:
            width, height = self.student.size
            _allocate(work.evidence, (work.count, kinds, height, width), IGNORED)
            _allocate(work.labels, (work.count, height, width), IGNORED)
        chunks = [(work, span) for work in works for span in spans(work.count, CHUNK)]
        calls: list[tuple] = [(*chunk, self.student) for chunk in chunks]
        collect(_gather, calls, workers, f"cues, round {number + 1}", "chunk")
        calls = [(work, self.student) for work in works]
        weights = collect(_weigh, calls, workers, "weights of the cues", "sequence")
        facts = {work.name: (own, *self._detect(work, own)) for work, own in zip(works, weights, strict=True)}
        calls = [(work, span, self.student, *facts[work.name]) for work, span in chunks]
        collect(_label, calls, workers, f"pseudo-masks, round {number + 1}", "chunk")
        for work in works:
            work.evidence.unlink()

    def _whole(self, number: int) -> Path:
        """Exists when the pseudo-masks of a round are complete."""
        return self.scratch / f"round{number}.whole"

    def _work(self, number: int, archive: FrameArchive) -> Work:
        name = archive.path.stem
        folder = self.scratch / name
        folder.mkdir(exist_ok=True)
        frames, homographies, flow = self.folders
        return Work(
            name,
            frames / f"{name}.zip",
            homographies / f"{name}.npz",
            flow / f"{name}.zip",
            folder / f"labels{number}.npy",
            folder / "evidence.npy",
            folder / f"masks{number}.npy" if number else None,
            len(archive),
        )

    def _predict(self, works: list[Work]) -> None:
        """The student's soft masks of all training frames at the working size."""
        student = self._student()
        for work in works:
            archive = FrameArchive(work.frames)
            width, height = self.student.size
            assert work.masks is not None
            _allocate(work.masks, (work.count, height, width), 0)
            out = np.load(work.masks, mmap_mode="r+")
            for span in spans(work.count, 8):
                for t, soft in zip(span, student.soft([archive.image(t) for t in span]), strict=True):
                    out[t] = np.rint(soft * 255)
            out.flush()
        self.network.train()

    def _refit(self, works: list[Work], workers: int) -> list[Work]:
        """New homographies for all sequences; the works that use them."""
        chunks = [(work, span) for work in works for span in spans(work.count, CHUNK)]
        calls = [(*chunk, self.params.stabilize, self.student.size) for chunk in chunks]
        parts = collect(_refit, calls, workers, "cameras without the subject", "chunk")
        fresh = []
        for work in works:
            mine = [part for part, (owner, _) in zip(parts, chunks, strict=True) if owner.name == work.name]
            path = work.labels.with_name("homographies.npz")
            save_homographies(path, {key: np.concatenate([part[key] for part in mine]) for key in mine[0]})
            fresh.append(work._replace(homographies=path))
        return fresh

    def _detect(self, work: Work, weights: dict[str, float]) -> tuple[Detection, float]:
        """D's boxes of a sequence, and how far to trust them there: `gate` times the mean agreement with the cues."""
        archive, evidence = FrameArchive(work.frames), np.load(work.evidence, mmap_mode="r")
        if not self.student.gate:
            return Detection(np.zeros((work.count, 4)) + [0, 0, 2, 2], np.zeros(work.count)), 0.0
        segmenter = Segmenter.load(self.joint_dir, str(self.fabric.device))
        boxes, confidence = np.zeros((work.count, 4)), np.zeros(work.count)
        agreements = []
        used = range(0, work.count, self.student.every)
        for span in (used[k : k + 16] for k in range(0, len(used), 16)):
            boxes[span], confidence[span] = segmenter.detect([archive.image(t) for t in span])
            windows = (pointing(boxes[t], self.student.size) for t in span)
            for t, window in zip(span, windows, strict=True):
                fused = fuse(_read(evidence[t], self.student), self.student.size, weights)
                agreements.append(agreement(fused.value, window))
        return Detection(boxes, confidence), self.student.gate * float(np.mean(agreements))

    def _student(self) -> Student:
        """The network as it stands, ready to predict at the working size."""
        return Student(self.network, self.student.size, 0, self.fabric.device, self.student.subjects)

    def _threshold(self, labels: list[np.ndarray]) -> float:
        """The threshold at which the student's masks agree best with the pseudo-masks of its last round.

        A student that saw a subject in some of its pseudo-masks only (a tiny one, or one that often stands) is unsure
        of it everywhere: its masks then lie on the subject and stay below one half. Frames without a pseudo-mask say
        nothing.
        """
        student, grids = self._student(), []
        most = min(CONSENSUS_FRAMES, max(1, THRESHOLD_FRAMES // len(labels)))
        for archive, stored in zip(self.data.frames, labels, strict=True):
            used = np.arange(0, len(archive), self.student.every)
            some = used[np.linspace(0, len(used) - 1, min(most, len(used))).round().astype(int)]
            rows = []
            for t in some:
                subject, unknown = stored[t] % IGNORED > IGNORED // 2, stored[t] == IGNORED
                if subject.any():
                    soft = student.raw([archive.image(int(t))])[0]
                    found = [near_subject(soft, self.student.subjects, level) > level for level in LEVELS]
                    rows.append([jaccard(mask, subject, unknown) for mask in found])
            grids += [np.array(rows)] if rows else []
        self.network.train()
        return best_threshold(grids, np.array(LEVELS)) if grids else 0.5

    # M-step

    def _maximize(self, number: int, start: int, labels: list[np.ndarray], live: Any, history: list) -> None:
        """Train the student on a round's pseudo-masks."""
        student, total = self.student, self.student.iterations
        band = student.ignore if number + 1 >= student.hard_from else None
        self.network.train()
        seed = self.params.seed + number
        with progress(total, start, f"student, round {number + 1}") as bar:
            batches = self.data.batches(seed, start, total, student.batch, loader_workers(self.fabric))
            for iteration, batch in enumerate(batches, start):
                stored = np.stack([labels[s][t] for s, t in (self.data.items[int(i)] for i in batch.index)])
                label = targets(torch.from_numpy(stored).to(self.fabric.device, non_blocking=True), band)
                pixels = batch.image.to(self.fabric.device, non_blocking=True).float() / 255
                image, label = augment(pixels, label, generator_at(seed, iteration))
                loss = student_loss(self.learner.model(to_normal(image)), label)
                rate = student.rate * (min(1.0, (iteration + 1) / 20) * cosine(iteration, total, student.decay))
                self.learner.learn(iteration, {"bce": loss}, loss, [rate], partial(frame_names, self.data, batch))
                bar.update()
                if iteration % student.log_every == 0 or iteration + 1 == total:
                    row = {"iteration": number * total + iteration, "round": number + 1, "bce": float(loss.detach())}
                    log_row(live, row, history)
                if (iteration + 1) % student.checkpoint_every == 0 or iteration + 1 == total:
                    self._checkpoint(number, iteration + 1, history)

    def _checkpoint(self, number: int, iteration: int, history: list) -> None:
        self.learner.settle()
        done = iteration == self.student.iterations
        self.checkpoints.save(
            {
                "network": self.network.state_dict(),
                "optimizer": self.learner.optimizer.state_dict(),
                "round": number + 1 if done else number,
                "iteration": 0 if done else iteration,
                "history": history,
            }
        )

    def _model(self, threshold: float) -> tuple[dict[str, torch.nn.Module], dict[str, Any]]:
        """Parts and config of the model folder: those of stage train, and the student."""
        segmenter = Segmenter.load(self.joint_dir, "cpu")
        config = load_network(self.joint_dir)[1]
        size, channels = list(self.student.size), list(self.student.channels)
        config["student"] = {
            "channels": channels,
            "size": size,
            "guide": self.student.guide,
            "subjects": self.student.subjects,
            "threshold": threshold,
        }
        return {"detector": segmenter.detector, "synthesis": segmenter.synthesis, "student": self.network}, config


def to_normal(image: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
    """Normalized, in the memory layout that convolutions are fastest in."""
    return normalize(image).contiguous(memory_format=torch.channels_last)


def pass_through(joint_dir: Path, out_dir: Path, log_dir: Path) -> None:
    """No rounds: the papers' model is the segmenter."""
    load_network(joint_dir)
    with whole_folder(out_dir) as part:
        copy_files(joint_dir, part)
    with open_live(log_dir, []) as live:
        log_row(live, {"iteration": 0, "round": 0}, [])
