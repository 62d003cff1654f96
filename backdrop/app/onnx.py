"""The predictor as one ONNX graph: an image at the working size -> mask, box, cell probabilities, presence.

Three steps are OpenCV's and stay outside of the graph:

- the resizing of an image to the working size (`cv2.INTER_AREA`),
- the choice of the connected component (`blobs.near_subject`),
- the guided filter at the full size of the image (`student.sharpen`).

So the graph's mask is at the working size, before component and filter. Its box holds everything above
`predictor.BOX_LEVEL` (or the student's threshold, if that is lower), not one component alone. Its presence is taken
before the filter.

`tests/app/test_onnx.py` compares the graph with `PredictorGraph` in PyTorch, and that with `Segmenter` on images of
the working size.
"""

from __future__ import annotations

import copy
import json
import logging
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import onnx
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
from torch import Tensor, nn

from backdrop.app.segmenter import Segmenter
from backdrop.errors import BackdropError
from backdrop.io.files import atomic_path, show
from backdrop.io.images import RGB
from backdrop.motion.blobs import SPECK
from backdrop.networks.encoder import normalize
from backdrop.networks.predictor import BOX_LEVEL

OPSET = 18
"""The operators' version. It was the first in which resizing antialiases."""

INPUT = "image"

RANGES = {
    "image": "RGB in [0, 1]",
    "mask": "soft mask in [0, 1], 1 = foreground",
    "box": "cx, cy, w, h in [-1, 1] image coordinates",
    "p": "cell probabilities, sum 1",
    "presence": "[0, 1], how sure the mask is of any pixel",
}
"""What the graph takes and gives, in the order in which it gives them."""


class Outputs(NamedTuple):
    """What the graph gives for a batch of images of H x W pixels, the working size.

    mask: (B, H, W) in [0, 1], 1 = foreground. box: (B, 4) cx, cy, w, h in [-1, 1] image coordinates.
    p: (B, grid, grid) cell probabilities, sum 1. presence: (B,) in [0, 1] (see `predictor.presence`).
    """

    mask: Float[Tensor, "B H W"]
    box: Float[Tensor, "B 4"]
    p: Float[Tensor, "B G G"]
    presence: Float[Tensor, "B"]


class PredictorGraph(nn.Module):
    """What `Segmenter` does between OpenCV's steps, as one network. It shares the segmenter's weights.

    D's image is resampled from the working size by the weights that `cv2.INTER_AREA` has, without rounding to 8 bits.
    `Segmenter` resamples it from the image at its full size. Where that is the working size, only the rounding differs.

    With a student, the mask is the sigmoid of its logits. The box is the extent of what is above `level`, or D's where
    nothing is. Without a student, the mask is S's, pasted at D's box.

    Attributes:
        size: (W, H) in pixels, the working size: the student's, or without one the size at which D was trained.
        level: in [0, 1]; pixels whose mask is above it belong to the box.
    """

    rows: Tensor
    columns: Tensor

    def __init__(self, segmenter: Segmenter) -> None:
        super().__init__()
        self.detector = segmenter.detector
        self.student = None if segmenter.student is None else segmenter.student.network
        self.synthesis = segmenter.synthesis if segmenter.student is None else None
        self.size = segmenter.size if segmenter.student is None else segmenter.student.size
        self.resamples = self.size != segmenter.size
        self.level = segmenter.box_level
        (width, height), (w, h) = self.size, segmenter.size
        self.register_buffer("rows", torch.from_numpy(area_weights(height, h)), persistent=False)
        self.register_buffer("columns", torch.from_numpy(area_weights(width, w)).T.contiguous(), persistent=False)
        self.to(segmenter.device).eval()

    def forward(self, image: Float[Tensor, "B 3 H W"]) -> Outputs:
        """The outputs for a batch of images.

        Args:
            image: RGB in [0, 1], not normalized, at the working size.
        """
        small = self.rows @ image @ self.columns if self.resamples else image
        x = normalize(small)
        proposals = self.detector(x)
        # Not `proposals.best`: its index is a tensor as long as the batch, and the graph takes batches of any length.
        best = proposals.p.argmax(dim=1)[:, None, None].expand(-1, 1, 4)
        chosen = proposals.box.gather(1, best)[:, 0]
        if self.student is None:
            assert self.synthesis is not None  # without a student there is S
            center, sides = chosen[:, :2], chosen[:, 2:]
            side = self.synthesis.params.crop
            crops = self.synthesis(_sample(x, sides / 2, center, (side, side), "border")).mask
            pasted = _sample(crops, 2 / sides, -2 * center / sides, (self.size[1], self.size[0]), "zeros")
            mask, box = pasted[:, 0].clamp(0, 1), chosen
        else:
            x = normalize(image)
            mask = self.student(x).sigmoid()[:, 0]
            box = extent(mask, chosen, self.level)
        surest = mask.flatten(1).topk(max(1, round(SPECK * self.size[0] * self.size[1])), dim=1).values
        return Outputs(mask, box, proposals.p.unflatten(1, (self.detector.grid, self.detector.grid)), surest[:, -1])


def _sample(
    image: Float[Tensor, "B C h w"],
    scale: Float[Tensor, "B 2"],
    shift: Float[Tensor, "B 2"],
    size: tuple[int, int],
    pad: str,
) -> Float[Tensor, "B C H W"]:
    """The image at scale * (x, y) + shift for each pixel (x, y) of `size` (H, W).

    `spatial.crop` and `spatial.paste` do the same. They ask for the length of the batch, which would become a constant
    of the graph, so they cannot be used here.

    Convention: the position in the result is mapped to that in `image`. Both are in [-1, 1], x before y,
    align_corners=False. pad: what lies beyond the image, as `grid_sample` names it.
    """
    axes = [(torch.arange(count, dtype=image.dtype, device=image.device) + 0.5) * 2 / count - 1 for count in size]
    y, x = torch.meshgrid(*axes, indexing="ij")
    grid = torch.stack([x, y], dim=-1)[None] * scale[:, None, None] + shift[:, None, None]
    return F.grid_sample(image, grid, padding_mode=pad, align_corners=False)


def area_weights(source: int, target: int) -> Float32[np.ndarray, "target source"]:
    """The weights with which `cv2.INTER_AREA` resamples `source` pixels in a row to `target` of them."""
    return cv2.resize(np.eye(source, dtype=np.float32), (source, target), interpolation=cv2.INTER_AREA)


def extent(mask: Float[Tensor, "B H W"], other: Float[Tensor, "B 4"], level: float = BOX_LEVEL) -> Float[Tensor, "B 4"]:
    """The tight box around what is above `level` in each mask: cx, cy, w, h in [-1, 1]. Where nothing is, `other`."""
    above = mask > level
    sides = []
    for across in (1, 2):  # columns that hold something give left and right edge, rows top and bottom
        held = above.any(dim=across)
        count = held.shape[1]
        place = torch.arange(count, device=mask.device, dtype=mask.dtype)
        first = torch.where(held, place, count).amin(dim=1)
        end = torch.where(held, place + 1, 0).amax(dim=1)
        sides.append(((first + end) / count - 1, 2 * (end - first) / count))
    (cx, w), (cy, h) = sides
    found = above.flatten(1).any(dim=1)[:, None]
    return torch.where(found, torch.stack([cx, cy, w, h], dim=1), other)


def export_onnx(segmenter: Segmenter, path: str | Path, calibration: Sequence[RGB] | None = None) -> Path:
    """Write the predictor as an ONNX file (opset 18, float32, any batch size), which needs no PyTorch to run.

    Its metadata are strings: `backdrop`, the version; `working_size`, JSON [W, H]; `threshold`, where the student has
    one; `ranges`, JSON, what the input and each output hold; `int8`, where there is calibration, its number of images.

    Args:
        path: of the file. It is written completely or not at all.
        calibration: images like those to come, of any size. The student's convolutions then compute with 8 bits, in
            the ranges that their values have in these images.

    Returns:
        The path.

    Raises:
        BackdropError: `path` is a folder, or cannot be written; or calibration of a model without a student.
    """
    path = Path(path)
    if path.is_dir():
        raise BackdropError(f"{show(path)} is a folder; give the name of a file, as {show(path / 'model.onnx')}")
    if calibration is not None and segmenter.student is None:
        raise BackdropError("the model has no student, and only a student is brought to 8 bits; leave --int8 out")
    graph = _graph(segmenter)
    data = (graph if calibration is None else _in_8_bits(graph, calibration)).SerializeToString()
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)
    return path


class _Calibration(CalibrationDataReader):
    """Images one at a time, as the graph takes them."""

    def __init__(self, images: Sequence[RGB], size: tuple[int, int]) -> None:
        self._inputs = iter([cv2.resize(image, size, interpolation=cv2.INTER_AREA) for image in images])

    def get_next(self) -> dict[str, Float32[np.ndarray, "1 3 H W"]] | None:
        """The next input; None at the end."""
        image = next(self._inputs, None)
        return None if image is None else {INPUT: image.transpose(2, 0, 1)[None].astype(np.float32) / 255}


def _in_8_bits(model: onnx.ModelProto, images: Sequence[RGB]) -> onnx.ModelProto:
    """The graph with the student's layers in 8 bits, but for the last one, whose values are the logits."""
    # what leads to the mask, less what the student shares with the detector: the normalized image
    student = _leading_to(model.graph, "mask") - _leading_to(model.graph, "p")
    last = [node.name for node in model.graph.node if node.op_type == "Conv" and node.name in student][-1]
    about = {entry.key: entry.value for entry in model.metadata_props} | {"int8": str(len(images))}
    width, height = json.loads(about["working_size"])
    with tempfile.TemporaryDirectory(prefix="backdrop-") as folder:
        plain, small = Path(folder) / "plain.onnx", Path(folder) / "small.onnx"
        onnx.save(model, plain)
        with _quiet():
            quantize_static(
                plain,
                small,
                _Calibration(images, (width, height)),
                op_types_to_quantize=["Conv", "Concat", "MaxPool", "Resize"],
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                nodes_to_quantize=sorted(student - {last}),
            )
        found = onnx.load(small)
    for value in (*found.graph.input, *found.graph.output):
        value.doc_string = RANGES[value.name]
    onnx.helper.set_model_props(found, about)
    onnx.checker.check_model(found, full_check=True)
    return found


def _leading_to(graph: onnx.GraphProto, output: str) -> set[str]:
    """The names of the nodes that a value is computed by."""
    maker = {name: node for node in graph.node for name in node.output}
    found: set[str] = set()
    waiting = [output]
    while waiting:
        node = maker.get(waiting.pop())
        if node is not None and node.name not in found:
            found.add(node.name)
            waiting += node.input
    return found


@contextmanager
def _quiet() -> Iterator[None]:
    """Without advice of the quantizer, which goes to the root logger."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def _graph(segmenter: Segmenter) -> onnx.ModelProto:
    """The graph, checked, with metadata."""
    # a copy: the segmenter's networks stay on their device
    predictor = copy.deepcopy(PredictorGraph(segmenter)).cpu().requires_grad_(False)
    width, height = predictor.size
    example = torch.rand(2, 3, height, width)  # with one image, the exporter would take the 1 for a constant
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PyTorch's, about code of the exporter
        program = torch.onnx.export(
            predictor,
            (example,),
            input_names=[INPUT],
            output_names=list(Outputs._fields),
            opset_version=OPSET,
            dynamo=True,
            dynamic_shapes=({0: "batch"},),
            verbose=False,
        )
    assert program is not None  # it is None only where the exporter writes a file
    model = program.model_proto
    model.graph.ClearField("metadata_props")
    for node in model.graph.node:  # the exporter notes the file and line of this machine that made each node
        node.ClearField("metadata_props")
    for value in (*model.graph.input, *model.graph.output):
        value.doc_string = RANGES[value.name]
    student = segmenter.student
    about = {"backdrop": version("backdrop"), "working_size": json.dumps(predictor.size), "ranges": json.dumps(RANGES)}
    if student is not None and student.threshold is not None:
        about["threshold"] = f"{student.threshold:g}"
    onnx.helper.set_model_props(model, about)
    onnx.checker.check_model(model, full_check=True)
    return model


def describe(path: str | Path) -> list[str]:
    """A line for the input and for each output of a file that `export_onnx` wrote: name, shape, what it holds."""
    graph = onnx.load(path, load_external_data=False).graph
    lines = []
    for role, value in [("input", v) for v in graph.input] + [("output", v) for v in graph.output]:
        sides = ", ".join(side.dim_param or str(side.dim_value) for side in value.type.tensor_type.shape.dim)
        lines.append(f"{role} {value.name} ({sides}): {value.doc_string}")
    return lines
