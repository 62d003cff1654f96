"""Weights of the CRF of higher order, learned by back-propagation through its unrolled mean field.

    python -m backdrop.crf.learning --frames data/frames --predictions data/predictions --targets FOLDER

Targets are masks in the form of data/masks, such as pseudo-masks or masks that people checked. Prints the weights as
settings: `dvc exp run -S crf.kind=higher_order -S ...`. A term that `params.yaml` gives weight 0 stays off.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from jaxtyping import Bool
from torch.nn import functional

from backdrop.crf.dense import reach, unary_energy
from backdrop.crf.findings import BoxFindings, best_finding, edges_of
from backdrop.crf.higher_order import frame_terms, weights_of
from backdrop.crf.mean_field import Terms, Weights, mean_field
from backdrop.crf.parameters import CRFParams
from backdrop.errors import BackdropError
from backdrop.io.frame_archive import FrameArchive
from backdrop.io.masks import MaskArchive, Predictions, read_threshold, resize_mask, split_truth, within
from backdrop.params import read
from backdrop.run.chunks import one_thread, spread

LEARNED_PIXELS = 427 * 240
"""Frames are learned from at this size: kernels and superpixels shrink with them, and kernels are normalized."""

WEIGHT_KEYS = {
    "unary": "unary_weight",
    "gaussian": "gaussian_compat",
    "bilateral": "bilateral_compat",
    "background": "superpixel_background",
    "foreground": "superpixel_foreground",
    "detection": "detection",
}
"""Where each of `Weights` stands in the section `crf`."""


class Example(NamedTuple):
    """A frame to learn from: logit and target (1, H, W), floats, and its terms. NaN in target: it is not known."""

    logit: torch.Tensor
    target: torch.Tensor
    terms: Terms


def example(
    image: np.ndarray,
    soft: np.ndarray,
    target: np.ndarray,
    params: CRFParams,
    *,
    threshold: float = 0.5,
    known: Bool[np.ndarray, "H W"] | None = None,
    found: BoxFindings | None = None,
) -> Example:
    """A frame of any size, reduced to `LEARNED_PIXELS`.

    Args:
        image: RGB, (H, W, 3) uint8. soft: (H, W) in [0, 1]. target: (H, W) bool. threshold: of the soft mask.
        known: where the target is; None: everywhere.

    Raises:
        BackdropError: sizes that do not fit.
    """
    if not image.shape[:2] == soft.shape == target.shape:
        raise BackdropError(f"image, mask and target differ: {image.shape[:2]}, {soft.shape}, {target.shape}")
    height, width = soft.shape
    size = within((width, height), LEARNED_PIXELS)
    share = size[0] / width
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    shrunk = cv2.resize(soft.astype(np.float32), size, interpolation=cv2.INTER_AREA).clip(0, 1)
    background, foreground = unary_energy(shrunk, threshold, params)
    wanted = resize_mask(target, size).astype(np.float32)
    if known is not None:
        wanted[~resize_mask(known, size)] = np.nan
    reference = params.reference_diagonal
    reaches = [share * reach(sxy, soft.shape, reference) for sxy in (params.gaussian_sxy, params.bilateral_sxy)]
    halved = params.model_copy(update={"superpixel_side": max(2, round(share * params.superpixel_side))})
    boxes = edges_of(found, size)
    with torch.no_grad():
        terms = frame_terms(small, halved, (reaches[0], reaches[1]), boxes)
    return Example(
        torch.from_numpy(background - foreground).view(1, *shrunk.shape), torch.from_numpy(wanted)[None], terms
    )


def learn_weights(
    examples: Sequence[Example], start: Weights, iterations: int, *, steps: int = 200, rate: float = 0.05, seed: int = 0
) -> Weights:
    """The weights of the least cross-entropy with the targets, by Adam, one example a step. Those of 0 stay 0.

    The logarithms of the weights are learned, so that none becomes negative. What is returned is the mean over the last
    half of the steps, since a single example pulls the weights its own way.

    Args:
        start: floats, at least 0. iterations: of the mean field.

    Raises:
        BackdropError: there is no example with a known pixel, or nothing to learn.
    """
    usable = [one for one in examples if bool(one.target.isfinite().any())]
    names = [name for name, value in start._asdict().items() if value > 0]
    if not usable or not names:
        raise BackdropError("no frame has a target, or all weights of the CRF are 0: there is nothing to learn from")
    logs = torch.tensor([float(getattr(start, name)) for name in names]).log().requires_grad_()
    optimizer = torch.optim.Adam([logs], lr=rate)
    order = torch.Generator().manual_seed(seed)
    kept = []
    for step in range(steps):
        one = usable[int(torch.randint(len(usable), (), generator=order))]
        values = start._replace(**dict(zip(names, logs.exp().unbind(), strict=True)))
        known = one.target.isfinite()
        logit = mean_field(one.logit, values, one.terms, iterations)
        loss = functional.binary_cross_entropy_with_logits(logit[known], one.target[known])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step >= steps // 2:
            kept.append(logs.detach().clone())
    mean = torch.stack(kept).mean(dim=0).exp().tolist()
    return start._replace(**dict(zip(names, mean, strict=True)))


def with_weights_of(params: CRFParams, weights: Weights) -> CRFParams:
    """The parameters of the CRF of higher order with these weights."""
    values = {key: float(getattr(weights, name)) for name, key in WEIGHT_KEYS.items()}
    return CRFParams.model_validate({**params.model_dump(), "kind": "higher_order", **values})


def stored_examples(frames: Path, predictions: Path, targets: Path, params: CRFParams, count: int) -> list[Example]:
    """Up to `count` examples of each sequence that has frames, predictions and targets.

    Raises:
        BackdropError: there is none, or an archive is damaged (it is named).
    """
    threshold, found = read_threshold(predictions)[0], []
    for path in sorted(targets.glob("*.zip")):
        places = frames / path.name, predictions / path.name
        if not all(place.is_file() for place in places):
            continue
        images, soft, masks = FrameArchive(places[0]), Predictions(places[1]), MaskArchive(path)
        there = [t for t in range(len(images)) if masks.has(t) and soft.has(t)]
        for t in spread(there, count):
            box, size = best_finding(soft.box[t], soft.p[t]), soft.soft(t).shape[::-1]
            mask, void = split_truth(masks.gray(t))
            target = resize_mask(mask, (size[0], size[1]))
            known = None if void is None else ~resize_mask(void, (size[0], size[1]))
            one = example(images.image(t), soft.soft(t), target, params, threshold=threshold, known=known, found=box)
            found.append(one)
    if not found:
        raise BackdropError(f"{targets} holds no masks of the sequences in {frames} and {predictions}")
    return found


def print_learned_weights() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("frames", "predictions", "targets"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--count", type=int, default=8, help="frames of each sequence")
    parser.add_argument("--steps", type=int, default=200)
    arguments = parser.parse_args()
    params = read(arguments.params).crf
    with one_thread():
        found = stored_examples(arguments.frames, arguments.predictions, arguments.targets, params, arguments.count)
        weights = learn_weights(found, weights_of(params), params.iterations, steps=arguments.steps)
    for name, key in WEIGHT_KEYS.items():
        print(f"-S crf.{key}={getattr(weights, name):.4g}")


if __name__ == "__main__":
    print_learned_weights()
