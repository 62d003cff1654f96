"""The E-step of self-training: the pseudo-masks of all training frames, written sequence by sequence."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from backdrop.io.frame_archive import FrameArchive
from backdrop.learn import ranks
from backdrop.motion.homography import save_homographies
from backdrop.networks.predictor import Predictor
from backdrop.networks.student import Student, StudentNetwork
from backdrop.run.chunks import spans
from backdrop.run.processes import collect, pool
from backdrop.student.cues import cue_names
from backdrop.student.cues.regions import REGION_CUES
from backdrop.student.fusion import fuse
from backdrop.student.labels.applied import take_labels
from backdrop.student.labels.checked import FrameLabels
from backdrop.student.parameters import StudentFolders, StudentParams, StudentStage
from backdrop.student.pseudo_masks import (
    LABEL_CHUNK,
    Detection,
    Trust,
    Work,
    agreement,
    allocate,
    box_window,
    find_regions,
    fit_motion,
    gather_cues,
    label_frames,
    leave_out,
    read_cues,
    refit_chunk,
    weigh_cues,
)
from backdrop.student.targets import IGNORED


def working_student(network: StudentNetwork, params: StudentParams, device: torch.device) -> Student:
    """The network as it stands, ready to predict at the working size. It is in evaluation mode from now on."""
    return Student(network, params.size, 0, device, subjects=params.subjects)


class Expectation:
    """The E-step: the pseudo-masks of a round.

    Args:
        params: student, stabilize, compute.
        scratch: folder of the E-step's files.
        archives: the training sequences.
        network: the student, which from the second round on takes part; on `device`.
        labels: what people said of some frames.
    """

    def __init__(
        self,
        params: StudentStage,
        folders: StudentFolders,
        scratch: Path,
        archives: Sequence[FrameArchive],
        network: StudentNetwork,
        *,
        device: torch.device,
        labels: FrameLabels,
    ) -> None:
        self.people = labels
        self.params, self.student = params, params.student
        self.folders, self.scratch, self.archives = folders, scratch, archives
        self.network, self.device = network, device

    def labels(self, number: int) -> list[np.ndarray]:
        """The pseudo-masks of a round, (N, H, W) uint8 for each sequence: 0..254 for 0..1, or `IGNORED`.

        They are computed once, by the first rank, and found again by a resumed run.
        """
        works = [self._work(number, archive) for archive in self.archives]
        with ranks.main_process_first() as first:
            if first and not self.complete(number):
                with pool(self.params.compute) as workers:
                    self._write_labels(number, works, workers)
                self._marker(number).touch()
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
        missing = [(work, self.student) for work in works if not work.motion.exists()]  # round 2 takes those of round 1
        if missing and "motion" in self.student.cues:
            collect(fit_motion, missing, workers, title="motion network fitted", unit="sequence")
        chosen = [cue for cue in REGION_CUES if cue in self.student.cues]
        absent = [(work, [cue for cue in chosen if not work.regions(cue).exists()]) for work in works]
        if len(works) < workers:  # else the cues of a sequence share its flow
            absent = [(work, [cue]) for work, cues in absent for cue in cues]
        whole = [(*one, self.student) for one in absent if one[1]]
        if whole:
            collect(find_regions, whole, workers, title="cues of whole sequences", unit="sequence")
        chunks = [(work, span) for work in works for span in spans(work.count, LABEL_CHUNK)]
        tasks: list[tuple] = [(*chunk, self.student) for chunk in chunks]
        collect(gather_cues, tasks, workers, title=f"cues, round {number + 1}", unit="chunk")
        tasks = [(work, self.student) for work in works]
        weights = collect(weigh_cues, tasks, workers, title="weights of the cues", unit="sequence")
        trust = {work.name: self._trust(work, cues) for work, cues in zip(works, weights, strict=True)}
        tasks = [(work, span, self.student, trust[work.name]) for work, span in chunks]
        found = collect(label_frames, tasks, workers, title=f"pseudo-masks, round {number + 1}", unit="chunk")
        for work in works:
            leave_out(work, np.concatenate([o for o, (owner, _) in zip(found, chunks, strict=True) if owner == work]))
            work.evidence.unlink()
        tasks = [(work, self.people[work.name], self.student) for work in works if work.name in self.people]
        if tasks:
            collect(take_labels, tasks, workers, title=f"labels, round {number + 1}", unit="sequence")

    def complete(self, number: int) -> bool:
        """Whether the pseudo-masks of a round are at hand."""
        return self._marker(number).exists()

    def _marker(self, number: int) -> Path:
        """Exists when the pseudo-masks of a round are complete."""
        return self.scratch / f"round{number}.whole"

    def _work(self, number: int, archive: FrameArchive) -> Work:
        name = archive.path.stem
        folder = self.scratch / name
        folder.mkdir(exist_ok=True)
        return Work(
            name,
            self.folders.frames / f"{name}.zip",
            self.folders.homographies / f"{name}.npz",
            folder / f"labels{number}.npy",
            folder / "evidence.npy",
            folder / "motion.safetensors",
            folder / f"masks{number}.npy" if number else None,
            len(archive),
            frozenset(self.people.get(name, {})),
        )

    def _predict(self, works: list[Work]) -> None:
        """The student's soft masks of all training frames at the working size; activation maps of tagged ones."""
        student = working_student(self.network, self.student, self.device)
        for work in works:
            archive = FrameArchive(work.frames)
            width, height = self.student.size
            assert work.masks is not None
            allocate(work.masks, (work.count, height, width), 0)
            out = np.load(work.masks, mmap_mode="r+")
            for span in spans(work.count, 8):
                found = student.soft([archive.image(t) for t in span], region=archive.region)
                for t, soft in zip(span, found, strict=True):
                    out[t] = np.rint(soft * 255)
            out.flush()
            tagged = [t for t, label in self.people.get(work.name, {}).items() if label.tag_alone]
            if tagged:
                maps = np.stack([student.activation(archive.image(t)) for t in tagged])
                np.savez(work.activations, frames=np.array(tagged), maps=maps)
        self.network.train()

    def _refit(self, works: list[Work], workers: int) -> list[Work]:
        """New homographies for all sequences; the works that use them."""
        chunks = [(work, span) for work in works for span in spans(work.count, LABEL_CHUNK)]
        tasks = [(*chunk, self.params.stabilize) for chunk in chunks]
        parts = collect(refit_chunk, tasks, workers, title="cameras without the subject", unit="chunk")
        fresh = []
        for work in works:
            mine = [part for part, (owner, _) in zip(parts, chunks, strict=True) if owner.name == work.name]
            path = work.labels.with_name("homographies.npz")
            save_homographies(path, {key: np.concatenate([part[key] for part in mine]) for key in mine[0]})
            fresh.append(work._replace(homographies=path))
        return fresh

    def _trust(self, work: Work, weights: dict[str, float]) -> Trust:
        """D's boxes of a sequence, and how far to trust them there: `gate` times the mean agreement with the cues."""
        archive, evidence = FrameArchive(work.frames), np.load(work.evidence, mmap_mode="r")
        if not self.student.gate:
            unseen = Detection(np.zeros((work.count, 4)) + [0, 0, 2, 2], np.zeros(work.count))
            return Trust(weights, unseen, 0.0)
        segmenter = Predictor.load(self.folders.joint, str(self.device))
        boxes, confidence = np.zeros((work.count, 4)), np.zeros(work.count)
        agreements = []
        used = range(0, work.count, self.student.every)
        for span in (used[k : k + 16] for k in range(0, len(used), 16)):
            boxes[span], confidence[span] = segmenter.detect([archive.image(t) for t in span], archive.region)
            windows = (box_window(boxes[t], self.student.size) for t in span)
            for t, window in zip(span, windows, strict=True):
                fused = fuse(read_cues(evidence[t], self.student), self.student.size, weights)
                agreements.append(agreement(fused.value, window))
        return Trust(weights, Detection(boxes, confidence), self.student.gate * float(np.mean(agreements)))
