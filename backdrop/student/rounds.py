"""Self-training rounds: label-free cues become pseudo-masks, and a single-image student learns from them.

One round is an E-step and an M-step:

    E  cues of each training frame (`student.cues`), from the second round on with the student's masks: the camera
       is estimated on the background alone, and the known background leaves the subject out
       -> pseudo-masks: the component that lies where the detector D looks, refined
    M  the student learns them by binary cross-entropy

The student amortizes: what is wrong in one frame's cues but unlike the subject elsewhere, it does not learn.
No ground truth is read here. Frames of test and validation sequences are never seen.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from backdrop.io.archives import ArchiveWriter
from backdrop.io.files import atomic_folder, copy_files
from backdrop.io.frame_archive import FrameArchive
from backdrop.io.images import encode_png
from backdrop.io.masks import BACKGROUND, FOREGROUND, VOID, entry, within_region
from backdrop.learn import ranks
from backdrop.learn.checkpoints import Checkpoints
from backdrop.learn.curves import log_row, open_live, progress
from backdrop.learn.fabric import loader_workers, make_fabric
from backdrop.learn.learner import Learner, cosine, generator_at
from backdrop.learn.source_files import run_key
from backdrop.learn.training_frames import frame_names
from backdrop.measures import jaccard
from backdrop.motion.blobs import near_subject
from backdrop.networks.model_folders import load_network, save_network
from backdrop.networks.motion_network import MOTION_WEIGHTS
from backdrop.networks.predictor import Predictor
from backdrop.networks.student import StudentNetwork
from backdrop.run.chunks import spread
from backdrop.student.cues.prior import prior_files
from backdrop.student.e_step import Expectation, working_student
from backdrop.student.labels.applied import TaughtFrames
from backdrop.student.labels.checked import FrameLabels, read_labels
from backdrop.student.labels.files import label_files
from backdrop.student.parameters import StudentFolders, StudentStage
from backdrop.student.pseudo_masks import CONSENSUS_FRAMES
from backdrop.student.targets import IGNORED, augment, student_loss, targets, to_normal
from backdrop.thresholds import best_threshold

THRESHOLD_FRAMES = 120
"""Frames of all sequences together by which the student's threshold is chosen, equally many of each."""

STUDENT_LEVELS = [0.1, 0.2, 0.3, 0.4, 0.5]
"""Thresholds among which the student's is chosen. None is above one half: that would take back what the student found
beyond its pseudo-masks (on DAVIS's dog, .6 agrees best with them and leaves out more of the legs)."""


class SelfTraining:
    """The rounds; `run` trains to the end and writes the model folder with D, S and the student.

    Args:
        folders: what is read, and where curves and resume states go.
    """

    def __init__(self, params: StudentStage, folders: StudentFolders) -> None:
        self.params, self.student, self.folders = params, params.student, folders
        self.fabric = make_fabric(params.compute)
        self.fabric.seed_everything(params.seed, verbose=False)
        self.data = TaughtFrames(folders.frames, None, self.student.size)
        labels = self._people()
        self.data.teach(labels, self.student.every)
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
        files = label_files(folders.labels) if folders.labels and labels else []
        names = [path.as_posix() for path in files]  # those of masks say which frames they are of
        key = run_key(
            "student",
            [params.seed, self.student, params.stabilize, *names, *self._regions()],
            folders.frames / "index.csv",
            folders.joint / "model.safetensors",
            MOTION_WEIGHTS,
            *files,
            *([] if self.student.prior is None else prior_files(self.student.prior)),
        )
        self.checkpoints = Checkpoints(folders.checkpoints, key)
        self.scratch = folders.checkpoints / key
        device = self.fabric.device
        self.expectation = Expectation(
            params, folders, self.scratch, self.data.frames, self.network, device=device, labels=labels
        )

    def _regions(self) -> list[bytes]:
        """The regions of interest, where there are some. The models' weights, which stand for the frames, need not
        depend on them."""
        found = (archive.region for archive in self.data.frames)
        return [b"" if one is None else encode_png(one.view(np.uint8)) for one in found]

    def _people(self) -> FrameLabels:
        """What people said of some frames; says what of it cannot be used."""
        if self.folders.labels is None:
            return {}
        labels, complaints = read_labels(self.folders.labels, self.folders.frames, self.data.frames, self.student.size)
        if ranks.rank() == 0:
            for line in complaints:
                tqdm.write(f"warning: {line}", file=sys.stderr)
            frames = sum(len(one) for one in labels.values())
            tqdm.write(f"labels: {frames} frames of {len(labels)} videos take part", file=sys.stderr)
        return labels

    def run(self, out_dir: Path, masks_dir: Path | None = None) -> None:
        """From the last checkpoint (or the start) to the end.

        Args:
            out_dir: gets the model folder.
            masks_dir: gets what the student learned in its last round (`keep_pseudo_masks`).
        """
        self.scratch.mkdir(parents=True, exist_ok=True)
        state = self.checkpoints.load()
        first, start, history = 0, 0, []
        # Within a round the pseudo-masks must be at hand: the weights they came from are gone.
        if state is not None and (not state["iteration"] or ranks.broadcast(self.expectation.complete(state["round"]))):
            self.learner.restore(state)
            first, start, history = state["round"], state["iteration"], state["history"]
        with open_live(self.folders.log, history) as live:
            for number in range(first, self.student.rounds):
                labels = self.expectation.labels(number)
                self._maximize(number, start, labels, live, history)
                start = 0
        labels = self.expectation.labels(self.student.rounds - 1)
        if ranks.rank() == 0:
            save_network(out_dir, *self._model(self._threshold(labels)))
            if masks_dir is not None:
                keep_pseudo_masks(self.data.frames, labels, self.student.ignore, masks_dir)
            self.checkpoints.clear()
            shutil.rmtree(self.scratch, ignore_errors=True)

    def _threshold(self, labels: list[np.ndarray]) -> float:
        """The threshold at which the student's masks agree best with the pseudo-masks of its last round.

        A student that saw a subject in some of its pseudo-masks only (a tiny one, or one that often stands) is unsure
        of it everywhere: its masks then lie on the subject and stay below one half. Frames without a pseudo-mask say
        nothing.
        """
        student, grids = working_student(self.network, self.student, self.fabric.device), []
        most = min(CONSENSUS_FRAMES, max(1, THRESHOLD_FRAMES // len(labels)))
        for archive, stored in zip(self.data.frames, labels, strict=True):
            rows = []
            for t in spread(range(0, len(archive), self.student.every), most):
                subject, unknown = stored[t] % IGNORED > IGNORED // 2, stored[t] == IGNORED
                if subject.any():
                    soft = within_region(student.raw([archive.image(t)])[0], archive.region)
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
        done = iteration == self.student.iterations
        place = {"round": number + 1 if done else number, "iteration": 0 if done else iteration}
        self.checkpoints.save(self.learner.state() | place | {"history": history})

    def _model(self, threshold: float) -> tuple[dict[str, torch.nn.Module], dict[str, Any]]:
        """Parts and config of the model folder: those of stage train, and the student."""
        segmenter = Predictor.load(self.folders.joint, "cpu")
        config = load_network(self.folders.joint)[1]
        size, channels = list(self.student.size), list(self.student.channels)
        config["student"] = {
            "channels": channels,
            "size": size,
            "guide": self.student.guide,
            "subjects": self.student.subjects,
            "threshold": threshold,
        }
        return {"detector": segmenter.detector, "synthesis": segmenter.synthesis, "student": self.network}, config


def keep_pseudo_masks(
    archives: Sequence[FrameArchive], labels: Sequence[np.ndarray], band: tuple[float, float], out_dir: Path
) -> None:
    """Write `out_dir`/<sequence>.zip, for `MaskArchive`: 255 subject, 0 background, 128 nothing is known.

    Frames of which nothing is known have no entry.

    Args:
        labels: (N, H, W) uint8 a sequence, as `Expectation.labels` gives them.
        band: between these two values nothing is known, as in `targets`.
    """
    with atomic_folder(out_dir) as part:
        for archive, stored in zip(archives, labels, strict=True):
            with ArchiveWriter(part / f"{archive.path.stem}.zip") as written:
                for t, label in enumerate(stored):
                    hard, weight = targets(torch.from_numpy(np.array(label))[None], band)[0].numpy()
                    if weight.any():
                        mask = np.where(weight > 0, np.where(hard > 0, FOREGROUND, BACKGROUND), VOID)
                        written.add(entry(t), encode_png(mask.astype(np.uint8)))


def pass_through(joint_dir: Path, out_dir: Path, log_dir: Path, masks_dir: Path | None = None) -> None:
    """No rounds: the papers' model is the segmenter, and there are no pseudo-masks."""
    load_network(joint_dir)
    if masks_dir is not None:
        keep_pseudo_masks([], [], (0.5, 0.5), masks_dir)
    with atomic_folder(out_dir) as part:
        copy_files(joint_dir, part)
    with open_live(log_dir, []) as live:
        log_row(live, {"iteration": 0, "round": 0}, [])
