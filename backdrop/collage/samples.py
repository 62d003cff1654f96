"""Samples for the motion network: the evidence of motion in a collage, and its exact mask."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from backdrop.collage.camera import VIEW
from backdrop.collage.parameters import CollageParams
from backdrop.collage.scene import Collage, random_collage
from backdrop.io.files import atomic_path
from backdrop.learn.source_files import reached_from
from backdrop.motion.evidence import EVIDENCE_GAPS, VIEW_OFFSETS, flow_evidence, halved, scene_evidence
from backdrop.run.processes import collect

CHUNK = 50
"""Samples in a file."""

AREAS = (0.003, 0.55)
"""Share of the image that the subject of a sample covers; other collages are passed over."""

ABSENT = 12
"""In one of so many samples nothing moves by itself: the mask is empty."""

ATTEMPTS = 1000
"""Seeds kept apart between two samples."""

MISFIT = 0.25
"""Standard deviation in pixels by which views are laid amiss: real homographies are not exact."""


class Sample(NamedTuple):
    """Evidence (see `backdrop.motion.evidence`) and the subject's coverage, 0..255: of one frame, or stacked."""

    flow: Float[np.ndarray, "*n 6 6 h w"]
    scene: Float[np.ndarray, "*n 4 h w"]
    mask: UInt8[np.ndarray, "*n h w"]


def make_sample(seed: int, number: int) -> Sample:
    """One sample; the same numbers give the same sample."""
    absent = number % ABSENT == ABSENT - 1
    for attempt in range(ATTEMPTS):
        collage = random_collage((seed * 1_000_003 + number) * ATTEMPTS + attempt)
        if absent:
            collage = replace(collage, body=None, dust=None)
        picture, covered = collage.frame(0)
        if absent or AREAS[0] < (covered > 0.5).mean() < AREAS[1]:
            break
    reach = max(map(abs, EVIDENCE_GAPS))

    @cache
    def gray(k: int) -> np.ndarray:
        return cv2.cvtColor(collage.frame(k - reach)[0], cv2.COLOR_RGB2GRAY)

    flow = flow_evidence(gray, reach, 2 * reach + 1)
    return Sample(flow, scene_evidence(picture, _views(collage)), np.rint(halved(covered) * 255).astype(np.uint8))


def _views(collage: Collage) -> list[tuple[np.ndarray, np.ndarray]]:
    """Other frames laid over frame 0 by the far layer's motion, at half size; for some clips only a few."""
    rng = np.random.default_rng([collage.seed, 7])
    offsets = VIEW_OFFSETS if rng.random() < 0.8 else VIEW_OFFSETS[: int(rng.integers(2, 7))]
    size = (VIEW[0] // 2, VIEW[1] // 2)
    found = []
    for t in offsets:
        matrix = _half(collage.camera.matrix(0)) @ np.linalg.inv(_half(collage.camera.matrix(t)))
        matrix[:2, 2] += rng.normal(0, MISFIT, 2)
        view = cv2.warpAffine(collage.frame(t, small=True)[0], matrix[:2], size)
        inside = cv2.warpAffine(np.full(size[::-1], 255, np.uint8), matrix[:2], size)
        found.append((view, inside == 255))
    return found


def _half(matrix: np.ndarray) -> np.ndarray:
    """An image matrix for the image of half the size, as (3, 3)."""
    return np.diag([0.5, 0.5, 1]) @ np.vstack([matrix, [0, 0, 1]]) + np.array([[0, 0, -0.25], [0, 0, -0.25], [0, 0, 0]])


def write_samples(folder: Path, params: CollageParams, workers: int) -> list[Path]:
    """All samples, `CHUNK` in a file: training, then held-out ones. Files that are there are not made again.

    Samples that other code made, or another seed, lie in another folder.

    Args:
        workers: processes; 0: all cores. The samples do not depend on it.

    Returns:
        The files, in order: flow (N, 6, 6, h, w) float16, scene (N, 4, h, w) float16, mask (N, h, w) uint8.
    """
    digest = hashlib.sha256(str(params.seed).encode())
    for source in sorted(reached_from([Path(__file__)])):
        digest.update(source.read_bytes())
    folder = folder / digest.hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    total = params.samples + params.held
    files = [folder / f"{start:06d}.npz" for start in range(0, total, CHUNK)]
    spans = [(start, min(start + CHUNK, total)) for start in range(0, total, CHUNK)]
    missing = [(path, params.seed, *span) for path, span in zip(files, spans, strict=True) if not path.exists()]
    collect(_write_chunk, missing, workers, title="collages", unit=f"{CHUNK} samples")
    return files


def _write_chunk(path: Path, seed: int, start: int, stop: int) -> None:
    samples = [make_sample(seed, number) for number in range(start, stop)]
    flow, scene = (np.stack([sample[k] for sample in samples]).astype(np.float16) for k in (0, 1))
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(file, flow=flow, scene=scene, mask=np.stack([sample.mask for sample in samples]))


def read_samples(files: Sequence[Path]) -> Sample:
    """The samples of some files together, as `write_samples` made them."""
    parts = [np.load(path) for path in files]
    return Sample(*(np.concatenate([part[key] for part in parts]) for key in Sample._fields))
