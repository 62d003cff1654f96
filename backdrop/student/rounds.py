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

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from backdrop.io.files import copy_files, whole_folder
from backdrop.io.frame_archive import FrameArchive
from backdrop.learn import ranks
from backdrop.learn.checkpoints import Checkpoints, run_key
from backdrop.learn.curves import log_row, open_live, progress
from backdrop.learn.fabric import loader_workers, make_fabric
from backdrop.learn.frames import TrainingFrames, frame_names
from backdrop.learn.learner import Learner, cosine, generator_at
from backdrop.measures import jaccard
from backdrop.motion.blobs import near_subject
from backdrop.motion.homography import save_homographies
from backdrop.networks.folders import load_network, save_network
from backdrop.networks.predictor import Predictor
from backdrop.networks.student import Student, StudentNetwork
from backdrop.run.chunks import spans
from backdrop.run.processes import collect, pool
from backdrop.student.cues import cue_names
from backdrop.student.fusion import fuse
from backdrop.student.learning import IGNORED, augment, student_loss, targets, to_normal
from backdrop.student.parameters import StudentStage
from backdrop.student.pseudo_masks import (
    CONSENSUS_FRAMES,
    LABEL_CHUNK,
    Detection,
    Work,
    _read_cues,
    agreement,
    allocate,
    box_window,
    gather_cues,
    label_frames,
    refit_chunk,
    weigh_cues,
)
from backdrop.thresholds import best_threshold

THRESHOLD_FRAMES = 120
"""Frames of all sequences together by which the student's own threshold is chosen, as many of each."""

STUDENT_LEVELS = [0.1, 0.2, 0.3, 0.4, 0.5]
"""Thresholds among which the student's own is chosen. None above one half: it would take back what the student found
beyond its pseudo-masks (on DAVIS's dog, .6 agrees best with them and leaves out more of the legs)."""


class SelfTraining:
    """The rounds; `run` trains to the end and writes the model folder with D, S and the student.

    Args:
        params: student, stabilize, seed, compute.
        joint_dir: model folder of stage train.
        checkpoint_dir: holds, until the end, the resume state and the E-step's files.
    """

    def __init__(
        self,
        params: StudentStage,
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
        with ranks.main_process_first() as first:
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
            allocate(work.evidence, (work.count, kinds, height, width), IGNORED)
            allocate(work.labels, (work.count, height, width), IGNORED)
        chunks = [(work, span) for work in works for span in spans(work.count, LABEL_CHUNK)]
        calls: list[tuple] = [(*chunk, self.student) for chunk in chunks]
        collect(gather_cues, calls, workers, f"cues, round {number + 1}", "chunk")
        calls = [(work, self.student) for work in works]
        weights = collect(weigh_cues, calls, workers, "weights of the cues", "sequence")
        facts = {work.name: (own, *self._detect(work, own)) for work, own in zip(works, weights, strict=True)}
        calls = [(work, span, self.student, *facts[work.name]) for work, span in chunks]
        collect(label_frames, calls, workers, f"pseudo-masks, round {number + 1}", "chunk")
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
            allocate(work.masks, (work.count, height, width), 0)
            out = np.load(work.masks, mmap_mode="r+")
            for span in spans(work.count, 8):
                for t, soft in zip(span, student.soft([archive.image(t) for t in span]), strict=True):
                    out[t] = np.rint(soft * 255)
            out.flush()
        self.network.train()

    def _refit(self, works: list[Work], workers: int) -> list[Work]:
        """New homographies for all sequences; the works that use them."""
        chunks = [(work, span) for work in works for span in spans(work.count, LABEL_CHUNK)]
        calls = [(*chunk, self.params.stabilize, self.student.size) for chunk in chunks]
        parts = collect(refit_chunk, calls, workers, "cameras without the subject", "chunk")
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
        segmenter = Predictor.load(self.joint_dir, str(self.fabric.device))
        boxes, confidence = np.zeros((work.count, 4)), np.zeros(work.count)
        agreements = []
        used = range(0, work.count, self.student.every)
        for span in (used[k : k + 16] for k in range(0, len(used), 16)):
            boxes[span], confidence[span] = segmenter.detect([archive.image(t) for t in span])
            windows = (box_window(boxes[t], self.student.size) for t in span)
            for t, window in zip(span, windows, strict=True):
                fused = fuse(_read_cues(evidence[t], self.student), self.student.size, weights)
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
                    found = [near_subject(soft, self.student.subjects, level) > level for level in STUDENT_LEVELS]
                    rows.append([jaccard(mask, subject, unknown) for mask in found])
            grids += [np.array(rows)] if rows else []
        self.network.train()
        return best_threshold(grids, np.array(STUDENT_LEVELS)) if grids else 0.5

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
        segmenter = Predictor.load(self.joint_dir, "cpu")
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


def pass_through(joint_dir: Path, out_dir: Path, log_dir: Path) -> None:
    """No rounds: the papers' model is the segmenter."""
    load_network(joint_dir)
    with whole_folder(out_dir) as part:
        copy_files(joint_dir, part)
    with open_live(log_dir, []) as live:
        log_row(live, {"iteration": 0, "round": 0}, [])
