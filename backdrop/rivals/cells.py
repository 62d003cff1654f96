"""A cell of the comparison: one rival on one footage, each sequence in a process of its own that is timed.

A sequence that is done is not run again while the rival's code, its settings and the frames stay as they are. One that
fails is marked with its reason in one line; the others go on.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from backdrop.config.reading import read_checked
from backdrop.config.sections import Positive, Section
from backdrop.errors import BackdropError
from backdrop.io.archives import ArchiveWriter
from backdrop.io.files import atomic_path
from backdrop.io.frame_archive import FrameArchive
from backdrop.io.images import encode_png
from backdrop.io.masks import Predictions, Soft, entry
from backdrop.learn.source_files import reached_from
from backdrop.params import Params, read
from backdrop.rivals.footage import TEST_VIDEOS, Manifest, read_manifest
from backdrop.rivals.material import Material, RivalSettings
from backdrop.rivals.registry import load_rival, model_key, rival_file, trained_as
from backdrop.rivals.scores import score_sequence
from backdrop.rivals.spent import forget_try, note_peak, peak_mb, spent_seconds

PARAMS = Path("params.yaml")
RIVAL_PARAMS = Path("rivals/params.yaml")
WORK = Path("runs/rivals")
DETECTIONS = Path("data/predictions_paper")
"""Boxes of D, of a finished run on the embedded footage."""


class RivalParams(Section):
    """The file `rivals/params.yaml`.

    Attributes:
        cpu_minutes: a sequence that takes more is stopped and marked.
        instance_model, person_model: path of the model for the rival `instance_model`, `person_segmenter`; or null.
    """

    cpu_minutes: Positive
    instance_model: str | None = Field(default=None, min_length=1)
    person_model: str | None = Field(default=None, min_length=1)

    def model_of(self, rival: str) -> str | None:
        """The path of a rival's model; None: it has none."""
        return getattr(self, key) if (key := model_key(rival)) else None


def cell_folder(rival: str, footage: str) -> Path:
    """Where a cell's results lie."""
    return WORK / "cells" / rival / footage


def scratch_folder(rival: str, footage: str, sequence: str) -> Path:
    """Where a sequence's checkpoints lie."""
    return cell_folder(trained_as(rival), footage) / "checkpoints" / sequence


def manifest_of(footage: str) -> Manifest:
    """The manifest of a footage."""
    return read_manifest(WORK / "footage" / f"{footage}.json")


def run_cell(rival: str, footage: str, only: list[str] | None = None, again: bool = False) -> list[dict[str, Any]]:
    """Run a rival on the sequences of a footage that are not done, and write a file of results for each.

    Args:
        only: names of sequences; None: all.
        again: also those that are done. (Those that failed are always tried again.)

    Returns:
        The results: see `_run_sequence`.

    Raises:
        BackdropError: no such rival, no manifest, or settings that are wrong.
    """
    rival_file(rival)
    manifest, known = manifest_of(footage), read(PARAMS)
    folder = cell_folder(rival, footage)
    folder.mkdir(parents=True, exist_ok=True)
    for stale in [path for path in folder.glob("*.json") if path.stem not in manifest.sequences]:
        stale.unlink()
    results = []
    for name in manifest.sequences:
        if only and name not in only:
            continue
        path, key = folder / f"{name}.json", cell_key(rival, manifest.sequences[name], known)
        result = None if again else _done(path, key)
        if result is None:
            result = {"sequence": name, "key": key} | _run_sequence(rival, footage, name)
            with atomic_path(path) as temporary:
                temporary.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        results.append(result)
        said = result.get("failed") or f"J {result.get('J', float('nan')):.3f}, {result['cpu_minutes']:.2f} CPU min"
        print(f"{rival}, {footage}, {name}: {said}", file=sys.stderr, flush=True)
    return results


def cell_key(rival: str, frames: str, params: Params) -> str:
    """Changes with the code that the rival can run, its settings, and the frames (SHA-256 of their archive)."""
    digest = hashlib.sha256(frames.encode())
    here = Path(__file__).parent
    for path in sorted(reached_from([rival_file(rival), here / "material.py", here / "scores.py"])):
        digest.update(path.read_bytes())
    own = rival_params()
    settings = (own.cpu_minutes, own.model_of(rival))
    for section in (params.stabilize, params.student.size, params.crf, params.seed, settings):
        digest.update(repr(section).encode())
    return digest.hexdigest()[:16]


def rival_params() -> RivalParams:
    """The settings of the comparison.

    Raises:
        BackdropError: the file is missing or wrong; names each key.
    """
    return read_checked(RivalParams, RIVAL_PARAMS)


def _done(path: Path, key: str) -> dict[str, Any] | None:
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return result if result.get("key") == key and "failed" not in result else None


def _run_sequence(rival: str, footage: str, name: str) -> dict[str, Any]:
    """One sequence in a child process.

    Returns:
        cpu_minutes (user and system, of stopped tries too), memory_mb (peak), and the scores (`score_sequence`); or
        `failed`, the reason in one line. `note` says that nothing was found.
    """
    folder = cell_folder(rival, footage)
    command = [sys.executable, "-m", "backdrop.rivals", "sequence", rival, footage, name]
    scratch = scratch_folder(rival, footage, name)
    forget_try(scratch)
    with (folder / f"{name}.log").open("w") as log:
        # wait4 gives the time and memory of this child alone, whatever runs beside it
        child = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, env=os.environ | {"OMP_NUM_THREADS": "1"}
        )
        try:
            _, status, usage = os.wait4(child.pid, 0)
        except BaseException:
            child.terminate()
            raise
    seconds = usage.ru_utime + usage.ru_stime + spent_seconds(scratch)
    result: dict[str, Any] = {"cpu_minutes": seconds / 60, "memory_mb": peak_mb(scratch) or usage.ru_maxrss / 1024}
    if status:
        return result | {"failed": _reason(status, folder / f"{name}.log")}
    try:
        scores = score_sequence(Path(manifest_of(footage).frames) / f"{name}.zip", folder / f"{name}.zip")
    except BackdropError as fault:
        return result | {"failed": " ".join(str(fault).split())}
    return result | scores | ({"note": "finds nothing"} if scores.get("threshold") == 0.5 else {})


def _reason(status: int, log: Path) -> str:
    """Why a child ended, in one line: what it said last."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        if number == signal.SIGXCPU:
            return f"took more than {rival_params().cpu_minutes:g} CPU minutes"
        memory = " (most likely for want of memory)" if number == signal.SIGKILL else ""
        return f"ended by {signal.Signals(number).name}{memory}"
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return (
        lines[-1].removeprefix("error: ") if lines else f"ended with status {os.WEXITSTATUS(status)}, and said nothing"
    )


def run_sequence(rival: str, footage: str, name: str) -> None:
    """What the child process does: the soft masks of one sequence into an archive.

    Raises:
        BackdropError: the rival says so, or its masks are none.
    """
    import resource  # not on Windows, where rivals are not run

    known, folder = rival_params(), cell_folder(rival, footage)
    scratch = scratch_folder(rival, footage, name)
    seconds = max(1, round(60 * known.cpu_minutes))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))
    frames = FrameArchive(Path(manifest_of(footage).frames) / f"{name}.zip")
    found = DETECTIONS / f"{name}.zip"
    boxes = Predictions(found).box.__getitem__ if footage == TEST_VIDEOS and found.is_file() else None
    material = Material(frames, RivalSettings(read(PARAMS), scratch, known.model_of(rival), boxes))
    try:
        write_soft_masks(folder / f"{name}.zip", checked(rival, load_rival(rival)(material), material))
    finally:
        note_peak(scratch)


def checked(rival: str, masks: Any, material: Material) -> Iterator[Soft]:
    """The masks of a rival, one a frame.

    Raises:
        BackdropError: too few or too many, another size, or values that are none.
    """
    count, shape = 0, (material.size[1], material.size[0])
    for mask in masks:
        if mask.shape != shape or not np.isfinite(mask).all() or mask.min() < 0 or mask.max() > 1:
            raise BackdropError(f"{rival} gives no soft mask of {shape} for frame {count}")
        yield np.asarray(mask, np.float32)
        count += 1
    if count != len(material):
        raise BackdropError(f"{rival} gives {count} masks for {len(material)} frames")


def write_soft_masks(path: Path, masks: Iterator[Soft]) -> None:
    """The archive of a sequence's soft masks, as they come; whole or not at all."""
    with ArchiveWriter(path) as archive:
        for t, mask in enumerate(masks):
            archive.add(entry(t), encode_png(np.rint(mask * 255).astype(np.uint8)))
