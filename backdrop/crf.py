"""The dense CRF that sharpens soft masks (stage refine).

Fully connected pairwise terms after Kraehenbuehl and Koltun, "Efficient Inference in Fully
Connected CRFs with Gaussian Edge Potentials" (NIPS 2011), by pydensecrf2. The papers take the
unary from the thresholded mask, the default pairwise terms and 5 iterations.

pydensecrf crashes the process or answers nonsense on bad input, so everything is checked before
the call. It also holds Python's global lock, so frames are spread over processes, not threads.
"""

from __future__ import annotations

from contextlib import closing, nullcontext
from itertools import chain
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32

from backdrop.chunks import by_sequence, kept
from backdrop.datasets import read_index
from backdrop.errors import BackdropError
from backdrop.masks import Predictions, entry, read_threshold, resize_mask, split_truth, within
from backdrop.processes import each
from backdrop.scores import GRID, best_threshold, jaccard
from backdrop.video import ArchiveWriter, FrameArchive, encode_png, whole_folder

QUANTUM = 1 / 510
"""Half a step of an 8-bit mask: no stored probability is surer than that, and 0 and 1 have no finite energy."""
LEVELS = GRID[1::2]
"""Thresholds that are tried with the CRF: .1, .2 to .9."""
TUNED = 60
"""Validation frames that they are tried on, nine runs of the CRF each."""
MARGIN = 3.0
"""Around what may be foreground, the CRF sees as much, in units of its widest kernel."""
NEAR = 0.25
"""What may be foreground: where the soft mask is above this share of the threshold."""
PIXELS = 1280 * 720
"""The CRF takes some ten seconds and a gigabyte a million pixels; a larger part of an image is refined at this size."""
CHUNK = 4
"""Frames a task: few enough to keep all processes busy to the end."""


@runtime_checkable
class CRFChoice(Protocol):
    """The parameters read here (the section `crf` of params.yaml)."""

    enabled: bool
    unary: str
    confidence: float
    iterations: int
    gaussian_sxy: float
    gaussian_compat: float
    bilateral_sxy: float
    bilateral_srgb: float
    bilateral_compat: float
    reference_diagonal: float | None


def unary_energy(soft: Float[np.ndarray, "H W"], threshold: float, params: CRFChoice) -> Float32[np.ndarray, "2 N"]:
    """Energies -log P of (background, foreground) for each pixel, row-major.

    thresholded: the label on the mask's side of the threshold has probability `params.confidence`.
    soft: the mask's own probability, its logit shifted so that `threshold` becomes 1/2.
    """
    if params.unary == "thresholded":
        foreground = np.where(soft > threshold, params.confidence, 1 - params.confidence)
    else:
        logit = _logit(soft) - _logit(threshold)
        foreground = np.clip(1 / (1 + np.exp(-logit)), QUANTUM, 1 - QUANTUM)
    energy = -np.log(np.stack([1 - foreground.ravel(), foreground.ravel()]))
    return np.require(energy, np.float32, ["C", "W"])


def _logit(p: np.ndarray | float) -> Any:
    p = np.clip(np.asarray(p, np.float64), QUANTUM, 1 - QUANTUM)
    return np.log(p) - np.log1p(-p)


def reach(sxy: float, size: tuple[int, int], reference: float | None) -> float:
    """Reach of a kernel in pixels: `sxy`, scaled from an image of diagonal `reference` to one of this size.

    The scale is taken to the hundredth, so that a diagonal in whole pixels gives its own size exactly `sxy`. Scaling
    never takes a reach below a pixel, where the kernel no longer joins neighbors.

    Args:
        size: (H, W) of the image. reference: pixels; None: `sxy` as it is.
    """
    if reference is None:
        return sxy
    return max(min(1.0, sxy), sxy * round(float(np.hypot(*size)) / reference, 2))


def refine(image: np.ndarray, soft: np.ndarray, threshold: float, params: CRFChoice) -> Bool[np.ndarray, "H W"]:
    """The mask after the CRF, True = foreground.

    A thresholded mask that is empty or full comes back as it is: it holds no edge to move, and
    the CRF would only invent one. So does any mask with `enabled` false or no iterations.

    Args:
        image: RGB, (H, W, 3) uint8.
        soft: (H, W), probability of foreground in [0, 1].
        threshold: foreground is above it.

    Raises:
        BackdropError: sizes, types, values or parameters that the CRF cannot take.
    """
    _check(image, soft, threshold, params)
    mask = np.asarray(soft > threshold)
    if not params.enabled or params.iterations == 0 or not mask.any() or mask.all():
        return mask
    # Of the image as it is, whatever part of it is computed.
    reaches = [reach(sxy, mask.shape, params.reference_diagonal) for sxy in (params.gaussian_sxy, params.bilateral_sxy)]
    used = [
        sxy for sxy, weight in zip(reaches, (params.gaussian_compat, params.bilateral_compat), strict=True) if weight
    ]
    window = _window(soft, threshold, max(used, default=1.0))
    refined = np.zeros(mask.shape, bool)
    refined[window] = _refine_bounded(image[window], soft[window], threshold, params, (reaches[0], reaches[1]))
    return refined


def _window(soft: Float[np.ndarray, "H W"], threshold: float, widest: float) -> tuple[slice, slice]:
    """The part of the image in which the CRF can change anything: where the soft mask comes near the threshold, and as
    far around as the kernels reach.

    The rest is background. The lattice on which the CRF computes lies differently in a part than in the whole: half a
    percent of the mask's pixels differ, for better as often as for worse (seven sequences; a larger margin changes no
    less), and it takes a fifth to two fifths of the time.

    Args:
        widest: reach of the widest kernel, pixels.
    """
    margin = int(np.ceil(MARGIN * widest))
    near = soft > NEAR * threshold
    spans = []
    for axis in (1, 0):
        found = np.flatnonzero(near.any(axis=axis))
        spans.append(slice(max(int(found[0]) - margin, 0), int(found[-1]) + 1 + margin))
    return spans[0], spans[1]


def _refine_bounded(
    image: np.ndarray, soft: np.ndarray, threshold: float, params: CRFChoice, reaches: tuple[float, float]
) -> Bool[np.ndarray, "H W"]:
    """The CRF on at most `PIXELS`: what is larger is refined smaller, and the mask enlarged."""
    height, width = soft.shape
    if soft.size <= PIXELS:
        return _infer(image, soft, threshold, params, reaches)
    size = within((width, height), PIXELS)
    share = size[0] / width
    small = [cv2.resize(np.asarray(a), size, interpolation=cv2.INTER_AREA) for a in (image, soft.astype(np.float32))]
    shrunk = (share * reaches[0], share * reaches[1])
    return resize_mask(_infer(small[0], small[1].clip(0, 1), threshold, params, shrunk), (width, height))


def _infer(
    image: np.ndarray, soft: np.ndarray, threshold: float, params: CRFChoice, reaches: tuple[float, float]
) -> Bool[np.ndarray, "H W"]:
    """Args: reaches: of the Gaussian and of the bilateral kernel, pixels."""
    from pydensecrf.densecrf import DenseCRF2D  # imported late: the checks need no compiled extension

    height, width = soft.shape
    crf = DenseCRF2D(width, height, 2)
    crf.setUnaryEnergy(unary_energy(soft, threshold, params))
    if params.gaussian_compat:  # a term of weight 0 costs as much as any other
        crf.addPairwiseGaussian(sxy=reaches[0], compat=params.gaussian_compat)
    if params.bilateral_compat:
        pixels = np.require(image, np.uint8, ["C", "W"])
        crf.addPairwiseBilateral(
            sxy=reaches[1], srgb=params.bilateral_srgb, rgbim=pixels, compat=params.bilateral_compat
        )
    background, foreground = np.array(crf.inference(params.iterations)).reshape(2, height, width)
    return foreground > background


def _check(image: np.ndarray, soft: np.ndarray, threshold: float, params: CRFChoice) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise BackdropError(f"the CRF needs an RGB image (H, W, 3) of uint8, not {image.shape} of {image.dtype}")
    if soft.shape != image.shape[:2]:
        raise BackdropError(f"the CRF needs mask and image of one size, not {soft.shape} and {image.shape[:2]}")
    if not (np.isfinite(soft).all() and soft.min() >= 0 and soft.max() <= 1):
        raise BackdropError("the soft mask holds values that are not in [0, 1] or not numbers; segment again")
    if not 0 <= threshold <= 1:
        raise BackdropError(f"the threshold of the masks must lie in [0, 1], not {threshold}")
    if params.unary not in ("thresholded", "soft"):
        raise BackdropError(f"crf.unary must be thresholded or soft, not {params.unary!r}")
    if not 0.5 < params.confidence < 1:
        raise BackdropError(f"crf.confidence must lie between 0.5 and 1, not {params.confidence}")
    if params.iterations < 0:
        raise BackdropError(f"crf.iterations must not be negative, not {params.iterations}")
    for key in ("gaussian_sxy", "bilateral_sxy", "bilateral_srgb"):
        value = getattr(params, key)
        if value is None or not np.isfinite(value) or value <= 0:
            raise BackdropError(f"crf.{key} must be a positive number, not {value}")
    for key in ("gaussian_compat", "bilateral_compat"):
        value = getattr(params, key)
        if value is None or not np.isfinite(value) or value < 0:
            raise BackdropError(f"crf.{key} must be a number of at least 0, not {value}")
    if params.reference_diagonal is not None and not 0 < params.reference_diagonal < np.inf:
        raise BackdropError(f"crf.reference_diagonal must be null or positive, not {params.reference_diagonal}")


# Threshold --------------------------------------------------------------------------------------------


def choose_refined_threshold(
    frames_dir: str | Path, predictions_dir: str | Path, params: CRFChoice, workers: int = 0
) -> tuple[float, str]:
    """The threshold of the soft masks whose masks are best after the CRF: best mean J on validation sequences.

    The CRF moves edges: what is best before it need not be best after it. Looks at every tenth of a threshold and at
    up to `TUNED` frames with truth, spread over the validation sequences alike. Where the stage segment had no
    validation truth, or the CRF is off, its choice stays.

    Returns:
        (threshold, what it was chosen on).
    """
    before, chosen_on = read_threshold(predictions_dir)
    if chosen_on != "validation" or not params.enabled or not params.iterations:
        return before, chosen_on
    index = read_index(Path(frames_dir), usable=True)
    names = index.loc[index["split"] == "val", "sequence"].tolist()
    calls = []
    for name in names:
        frames, predictions = Path(frames_dir) / f"{name}.zip", Path(predictions_dir) / f"{name}.zip"
        archive = FrameArchive(frames)
        truth = [t for t in range(len(archive)) if archive.has_mask(t)]
        count = min(len(truth), max(1, TUNED // len(names)))
        if count and predictions.is_file():
            some = [truth[k] for k in np.linspace(0, len(truth) - 1, count).round().astype(int)]
            calls += [(name, frames, predictions, some[i::4]) for i in range(4) if some[i::4]]
    if not calls:
        return before, chosen_on
    parts = each(_refined_grid, [(*call, params) for _, *call in calls], workers)
    grids: dict[str, list[np.ndarray]] = {}
    for (name, *_), part in zip(calls, parts, strict=True):
        grids.setdefault(name, []).append(part)
    return best_threshold([np.concatenate(part) for part in grids.values()], LEVELS), chosen_on


def _refined_grid(frames: Path, predictions: Path, some: list[int], params: CRFChoice) -> np.ndarray:
    """J after the CRF, (frames, `LEVELS`)."""
    images, soft = kept(FrameArchive, frames), kept(Predictions, predictions)
    rows = np.zeros((len(some), len(LEVELS)))
    for row, t in zip(rows, some, strict=True):
        stored = images.mask(t)
        if stored is None or not soft.has(t):
            continue
        truth, void = split_truth(stored)
        image, own = images.image(t), soft.soft(t)
        for k, level in enumerate(LEVELS):
            mask = refine(image, own, float(level), params)
            row[k] = jaccard(resize_mask(mask, (truth.shape[1], truth.shape[0])), truth, void)
    return rows


# Sequences --------------------------------------------------------------------------------------------


def refine_all(
    frames_dir: str | Path,
    predictions_dir: str | Path,
    out_dir: str | Path,
    davis_dir: str | Path | None,
    params: CRFChoice,
    threshold: float,
    workers: int = 0,
) -> list[str]:
    """Final masks of every sequence that has predictions, each sequence whole or not at all.

    Writes `out_dir`/<sequence>.zip (000000.png, 0/255) and, for other tools, where `davis_dir` is
    given, `davis_dir`/Annotations/<sequence>/<frame's name>.png. Memory does not grow with the frames:
    processes refine a few frames at a time, and this one writes what they return, in order.

    Args:
        threshold: of the soft masks, as the stage segment chose it.
        workers: processes; 0: one a core.

    Returns:
        The names of the sequences written.

    Raises:
        BackdropError: no predictions at all, or an archive is damaged (it is named).
    """
    frames_dir, predictions_dir = Path(frames_dir), Path(predictions_dir)
    counts = _predicted(frames_dir, predictions_dir)
    rest = (frames_dir, predictions_dir, params, threshold)
    with closing(by_sequence(_refine_frames, counts, CHUNK, rest, workers, "refine")) as sequences:
        for name, chunks in sequences:
            names = FrameArchive(frames_dir / f"{name}.zip").names
            annotations = None if davis_dir is None else Path(davis_dir) / "Annotations" / name
            with (
                ArchiveWriter(Path(out_dir) / f"{name}.zip") as archive,
                nullcontext() if annotations is None else whole_folder(annotations) as folder,
            ):
                for t, png in enumerate(chain.from_iterable(chunks)):
                    archive.add(entry(t), png)
                    if folder is not None:
                        (folder / f"{names[t]}.png").write_bytes(png)
    return list(counts)


def _predicted(frames_dir: Path, predictions_dir: Path) -> dict[str, int]:
    """Sequences with stored frames and predictions, and their number of frames, in the order of the index."""
    index = read_index(frames_dir)
    usable = index[index["status"] != "skipped"]
    counts = {str(row.sequence): int(row.frames) for row in usable.itertuples()}
    found = {name: n for name, n in counts.items() if (predictions_dir / f"{name}.zip").is_file()}
    if not found:
        raise BackdropError(
            f"{predictions_dir} holds no predictions of the sequences in {frames_dir}: run segment first"
        )
    return found


def _refine_frames(
    name: str, span: range, frames_dir: Path, predictions_dir: Path, params: CRFChoice, threshold: float
) -> list[bytes]:
    predictions = predictions_dir / f"{name}.zip"
    images, soft = kept(FrameArchive, frames_dir / f"{name}.zip"), kept(Predictions, predictions)
    result = []
    for t in span:
        try:
            mask = refine(images.image(t), soft.soft(t), threshold, params)
        except BackdropError as fault:
            raise BackdropError(f"{predictions}, frame {t}: {fault}") from fault
        result.append(encode_png(mask.view(np.uint8) * 255))
    return result
