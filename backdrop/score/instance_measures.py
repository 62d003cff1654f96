"""Measures of masks that tell subjects apart: AP^r, AP_vol, matched IoU, PQ.

Numbers of subjects mean nothing, so found masks are matched to those of the truth. Masks are (H, W) bool, True = the
subject. A frame is a `ToldFrame`.

    AP^r (Hariharan et al., ECCV 2014): average precision of masks over all frames, ranked by confidence; a mask counts
        at an IoU of at least r with a subject that no surer mask has. AP_vol: its mean over r = .1, .2, ..., .9.
        By pycocotools, so precision is sampled at 101 values of recall.
    matched IoU (Yang et al., PAMI 2012): mean over subjects of the IoU with the mask that is matched to each, or 0. The
        matching of a frame is that of the largest sum (Hungarian algorithm).
    PQ, panoptic quality (Kirillov et al., CVPR 2019): sum of the IoU of pairs above .5, over their number plus half of
        the masks and of the subjects that are in no pair.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.optimize import linear_sum_assignment

from backdrop.io.masks import Mask
from backdrop.measures import jaccard

REGION_LEVELS = (0.5, 0.6, 0.7, 0.8, 0.9)
"""r of AP^r, as in the papers' tables."""

VOLUME_LEVELS = tuple(round(0.1 * k, 1) for k in range(1, 10))

MOST_FOUND = 100
"""Masks of a frame that count, the surest ones."""


class ToldFrame(NamedTuple):
    """A frame: the masks that were found, how sure each is, and those of the truth."""

    masks: Sequence[Mask]
    confidences: Sequence[float]
    truth: Sequence[Mask]


def matched_ious(masks: Sequence[Mask], truth: Sequence[Mask]) -> Float[np.ndarray, "K"]:
    """IoU of each subject of the truth with the mask that is matched to it; 0 without one."""
    shared = np.array([[jaccard(mask, own) for mask in masks] for own in truth]).reshape(len(truth), len(masks))
    found = np.zeros(len(truth))
    rows, columns = linear_sum_assignment(-shared)
    found[rows] = shared[rows, columns]
    return found


def panoptic_quality(frames: Sequence[ToldFrame]) -> float:
    """PQ of one class; NaN where there is neither a mask nor a subject. No two masks of a frame share a pixel."""
    total, pairs, lone = 0.0, 0, 0
    for frame in frames:
        overlaps = matched_ious(frame.masks, frame.truth)  # above .5 there is but one partner
        good = overlaps[overlaps > 0.5]
        total, pairs = total + float(good.sum()), pairs + len(good)
        lone += len(frame.masks) + len(frame.truth) - 2 * len(good)
    return total / (pairs + lone / 2) if pairs + lone else float("nan")


def region_precisions(frames: Sequence[ToldFrame], levels: Sequence[float]) -> Float[np.ndarray, "R"]:
    """AP^r at each of these r; NaN where no frame has a subject.

    Args:
        frames: those without a subject count: masks in them are false.
    """
    if not any(len(frame.truth) for frame in frames):
        return np.full(len(levels), np.nan)
    with open(os.devnull, "w") as null, contextlib.redirect_stdout(null):  # the library prints
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

        wanted = [_annotation(t, mask) for t, frame in enumerate(frames) for mask in frame.truth if mask.any()]
        found = [
            {"score": float(sure), **_annotation(t, mask)}
            for t, frame in enumerate(frames)
            for mask, sure in zip(frame.masks, frame.confidences, strict=True)
            if mask.any()
        ]
        if not found:
            return np.zeros(len(levels))
        height, width = next(mask.shape for frame in frames for mask in frame.truth)  # the library asks for some size
        reference = COCO()
        reference.dataset = {
            "images": [{"id": t, "height": height, "width": width} for t in range(len(frames))],
            "categories": [{"id": 1}],
            # ids from 1: the library takes annotation 0 for "no match"
            "annotations": [{"id": k, "iscrowd": 0, **one} for k, one in enumerate(wanted, 1)],
        }
        reference.createIndex()
        evaluation = COCOeval(reference, reference.loadRes(found), "segm")
        evaluation.params.iouThrs = np.asarray(levels, np.float64)
        evaluation.params.maxDets = [MOST_FOUND]
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation.eval["precision"].reshape(len(levels), -1).mean(axis=1)


def _annotation(t: int, mask: Mask) -> dict[str, Any]:
    from pycocotools import mask as coco_mask

    rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {
        "image_id": t,
        "category_id": 1,
        "segmentation": rle,
        "area": float(coco_mask.area(rle)),
        "bbox": coco_mask.toBbox(rle).tolist(),
    }


def instance_figures(frames: Sequence[ToldFrame]) -> dict[str, float]:
    """All measures: "AP 0.5" to "AP 0.9", "AP_vol", "matched IoU" and "PQ", each in [0, 1]."""
    regions = region_precisions(frames, REGION_LEVELS)
    figures = {f"AP {level}": float(value) for level, value in zip(REGION_LEVELS, regions, strict=True)}
    overlaps = [matched_ious(frame.masks, frame.truth) for frame in frames if len(frame.truth)]
    return figures | {
        "AP_vol": float(region_precisions(frames, VOLUME_LEVELS).mean()),
        "matched IoU": float(np.mean(np.concatenate(overlaps))) if overlaps else float("nan"),
        "PQ": panoptic_quality(frames),
    }
