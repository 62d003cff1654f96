"""The pipeline in small: parameters that make each stage a matter of seconds, and a footage to run them on."""

from __future__ import annotations

import os
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import yaml

from backdrop.io.archives import ArchiveWriter
from backdrop.io.frame_archive import FrameArchive
from backdrop.io.images import encode_png
from backdrop.io.masks import entry
from backdrop.networks.detector import Detector
from backdrop.networks.inpainter import Inpainter
from backdrop.networks.model_folders import save_network
from backdrop.networks.predictor import Prediction
from backdrop.networks.student import StudentNetwork
from backdrop.networks.synthesis import SynthesisNetwork
from backdrop.params import Params, validate
from backdrop.train.parameters import TrainStage
from tests.handmade_run import HEIGHT, WIDTH, make_run, scene, write_frames, write_index, write_motion

ROOT = Path(__file__).parent.parent

SMALL: dict[str, dict[str, Any]] = {
    "footage": {"size": [96, 64], "frames": 12, "train": 1, "val": 1, "test": 1},
    "inpainter": {"channels": [4, 8], "iterations": 4, "batch": 2, "perceptual": 0.0},
    "synthesis": {"crop": 32, "hidden": [20, 6], "decoder": [8, 16], "encoder": "resnet18"},
    "sampling": {"cells": 2},
    "train": {
        "size": [48, 32],
        "iterations": 2,
        "batch": 2,
        "detector_iterations": 1,
        "synthesis_iterations": 1,
        "box_fixed": 1,
        "log_every": 1,
        "overlay_every": 2,
        "checkpoint_every": 1,
    },
    "student": {
        "rounds": 1,
        "size": [48, 32],
        "channels": [4, 8],
        "iterations": 2,
        "batch": 2,
        "neighbors": 4,
        "spacing": 1,
        "log_every": 1,
        "checkpoint_every": 2,
    },
    "crf": {"iterations": 1},
    "compute": {"device": "cpu", "precision": "32", "workers": 1},
}


def small_values(changes: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The committed params.yaml, made small; `changes` maps dotted keys to values."""
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    for section, keys in SMALL.items():
        if section in values:
            values[section] |= keys
    for key, value in (changes or {}).items():
        place = values
        *parents, last = key.split(".")
        for part in parents:
            place = place[part]
        place[last] = value
    values["data"]["path"] = values["data"]["labels"] = values["data"]["root"]
    return values


def small_params(changes: Mapping[str, Any] | None = None) -> Params:
    return validate(small_values(changes))


def training_params(changes: Mapping[str, Any] | None = None) -> TrainStage:
    """The parameters as the stage train gets them."""
    return small_params(changes).of_stage(TrainStage)


def write_material(root: Path, splits: Mapping[str, str], frames: int = 6) -> None:
    """`root`/frames, homographies and flow of `handmade_run.scene` (128 x 80 pixels), sequence -> split, with truth."""
    for seed, (name, _) in enumerate(splits.items()):
        images, masks = scene(frames, seed)
        write_frames(root / "frames", name, images, {t: mask.astype("uint8") * 255 for t, mask in enumerate(masks)})
        write_motion(root, name, masks)
    rows = [{"sequence": name, "split": split, "frames": frames, "masks": frames} for name, split in splits.items()]
    write_index(root / "frames", rows)


def write_masks(root: Path, folder: Path, name: str, grown: int = 0, leave_out: Iterable[int] = ()) -> None:
    """The true masks of a sequence of `write_material` as those of an earlier run: `folder`/<name>.zip.

    Args:
        grown: pixels by which they are larger on all sides. leave_out: frames without a mask.
    """
    frames = FrameArchive(root / "frames" / f"{name}.zip")
    square = np.ones((2 * grown + 1, 2 * grown + 1), np.uint8)
    with ArchiveWriter(folder / f"{name}.zip") as archive:
        for t in set(range(len(frames))) - set(leave_out):
            archive.add(entry(t), encode_png(cv2.dilate(frames.mask(t), square)))


def write_params(folder: Path, changes: dict[str, Any] | None = None) -> None:
    (folder / "data").mkdir(exist_ok=True)  # as it is in a project: only what lies below is a stage's to make
    (folder / "params.yaml").write_text(yaml.safe_dump(small_values(changes)))


def contents(folder: Path) -> dict[str, bytes | None]:
    """Every file and folder below, hidden ones too."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


def write_outputs(folder: Path) -> None:
    """Outputs of the stages up to `refine`, as if they had run."""
    make_run(folder / "data", {"one": "train", "two": "test"}, frames=4)
    for kind in ("rgb", "flow"):
        save_network(folder / "models" / f"inpainter_{kind}", Inpainter([4, 8]), {"channels": [4, 8]})
    params = small_params()
    networks = {
        "detector": Detector(params.detector, "none"),
        "synthesis": SynthesisNetwork(params.synthesis, "none"),
    }
    sections = {name: getattr(params, name).model_dump(mode="json") for name in networks}
    for name in ("joint", "segmenter"):
        save_network(folder / "models" / name, networks, {"size": [48, 32], **sections})


DIVIDED = {"divide_mask": True, "mask_start": None}
"""Settings of an S whose masks, at random weights, are not all below one half, as those that begin small are."""


def write_model(folder: Path, student: bool = True) -> Path:
    """A model folder for `scene`, whose masks are something between empty and full.

    D and S have the same weights with a student and without.
    """
    torch.manual_seed(1)
    params = small_params()
    synthesis = params.synthesis.model_copy(update=DIVIDED)
    networks = {
        "detector": Detector(params.detector, "none"),
        "synthesis": SynthesisNetwork(synthesis, "none"),
    }
    config = {
        "size": list(params.train.size),
        "detector": params.detector.model_dump(mode="json"),
        "synthesis": synthesis.model_dump(mode="json"),
    }
    if student:
        networks["student"] = StudentNetwork([4, 8])
        config["student"] = {"channels": [4, 8], "size": [WIDTH, HEIGHT], "guide": 0.0}
    save_network(folder, networks, config)
    return folder


def environment(**more: str) -> dict[str, str]:
    """For commands: this Python's `python` and `dvc` first, one thread, no progress of anybody's, a git identity."""
    folder = str(Path(sys.executable).parent)
    quiet = {"DVC_NO_ANALYTICS": "1", "OMP_NUM_THREADS": "1", "GIT_CONFIG_NOSYSTEM": "1", "NO_COLOR": "1"}
    who = {f"GIT_{role}_{key}": value for role in ("AUTHOR", "COMMITTER") for key, value in _WHO.items()}
    return {**os.environ, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", **quiet, **who, **more}


_WHO = {"NAME": "Tester", "EMAIL": "tester@example.org"}


def stage(name: str, folder: Path, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run `stages/<name>.py` as DVC would, in `folder`, which holds params.yaml."""
    command = [sys.executable, str(ROOT / "stages" / f"{name}.py"), *arguments]
    env = environment(PYTHONPATH=str(ROOT))
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=300, **options)


def commands(only: str | None = None) -> list[list[str]]:
    """The command lines of dvc.yaml in order, a matrix written out; `only`: those of one stage."""
    found = []
    for name, spec in yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"].items():
        if only in (None, name):
            for kind in spec.get("matrix", {}).get("kind", [""]):
                found.append(shlex.split(spec["cmd"].replace("${item.kind}", kind)))
    return found


def run_stage(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a stage of dvc.yaml in this process (importing torch takes seconds), in `folder`, which holds params.yaml."""
    for _, file, *arguments in commands(name):
        with monkeypatch.context() as patch:
            patch.chdir(folder)
            patch.setattr(sys, "argv", [file, *arguments])
            runpy.run_path(str(ROOT / file), run_name="__main__")


def stage_names() -> list[str]:
    return list(yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"])


def copy_project(folder: Path, changes: Mapping[str, Any]) -> None:
    """What a clone holds, without outputs, in small: conf/config.yaml has the small values, params.yaml is composed."""
    for name in ("backdrop", "stages", "conf"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("dvc.yaml", ".dvcignore", ".gitignore"):
        shutil.copy(ROOT / name, folder / name)
    (folder / ".dvc").mkdir()
    shutil.copy(ROOT / ".dvc" / "config", folder / ".dvc" / "config")
    shutil.copy(ROOT / ".dvc" / ".gitignore", folder / ".dvc" / ".gitignore")
    config = yaml.safe_load((ROOT / "conf" / "config.yaml").read_text())
    small = small_values(changes)
    values = {"defaults": config["defaults"], **{key: small[key] for key in config if key != "defaults"}}
    (folder / "conf" / "config.yaml").write_text(yaml.safe_dump(values, sort_keys=False))


def same_prediction(a: Prediction, b: Prediction, tolerance: float = 1e-5) -> bool:
    """Whether two predictions have the same cell, and mask, box and probabilities up to `tolerance`."""
    close = all(np.allclose(x, y, atol=tolerance) for x, y in ((a.mask, b.mask), (a.box, b.box), (a.p, b.p)))
    return close and a.cell == b.cell
