"""Label-free cues of the moving subject: what one frame owes to its stabilized neighbors.

Four kinds of evidence, each weak alone, wrong in different places, and computed without any label:

    flow     speed against the background over several gaps, as DIS sees it between stabilized frames
    median   color difference to the median of stabilized neighbors (the papers' known background B, made per
             frame so that it works with a moving camera)
    mog2     OpenCV's mixture model over the same stabilized neighbors
    mosaic   the baseline `backdrop.baselines.Mog2`: a longer window in the order of time, never told of masks

Each cue is scaled in each frame by Otsu's rule so that 0.5 is its threshold. `fuse` takes their mean, weighted by
`consensus`: which kind fails depends on the footage (background subtraction on a slow subject that covers itself,
flow on one that stands while its limbs move), so a sequence's cues count by their agreement with one another.
The E-step of the self-training rounds is this module, too: given soft masks of the subject, `refit` estimates
the homographies from the background's keypoints alone, neighbors are warped by the background's residual flow
filled in under the subject (parallax), and the subject is left out of the median.

Convention: all fields have the working size; positions and flow are in its pixels, x to the right, y down,
pixel centers at integers. Masks and cues say 1 for foreground.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import cv2
import numpy as np
from jaxtyping import Bool, Float32, Float64, UInt8

from backdrop.baselines import BACKGROUND_RATIO, MOG2_VARIANCE, PASSES, Mog2
from backdrop.flow import FlowArchive
from backdrop.homography import (
    Homographies,
    Images,
    Keypoints,
    Stabilization,
    chain,
    estimate_homography,
    keypoints,
    resampling,
    warp,
)
from backdrop.masks import resize_soft
from backdrop.unet import subject_component

Field = Float32[np.ndarray, "H W"]
Valid = Bool[np.ndarray, "H W"]
MaskOf = Callable[[int], np.ndarray]
"""t -> the subject's soft mask in frame t, (H, W) float32 in [0, 1] at the working size."""

MOTION_FLOOR = 0.5
"""Least flow threshold in pixels of the working size: Otsu's rule would otherwise split the noise of a static scene."""
SLOW = 2.0
"""Pixels over the first gap that the fastest 3 % of a frame should move at least."""
COLOR_FLOOR = 16.0
"""Least threshold of the color difference in gray levels: sensor noise and JPEG stay below."""
MARGIN = 1.15
"""A cue reaches 0.5 this far above Otsu's threshold: cues spill over the subject more than they miss of it."""
REACH = 0.2
"""Smoothness of the background's flow, share of the image's height: what the masks miss of the subject must not
explain its own motion away, as it does at 0.04."""
KNOWN = 0.5
"""A soft mask above this keeps its pixel out of the background."""


@runtime_checkable
class CueChoice(Protocol):
    """The parameters read here (the section `student` of params.yaml)."""

    cues: list[str]
    gaps: list[int]
    neighbors: int
    spacing: int
    parallax: bool


class Cue(NamedTuple):
    """A cue of one frame: value in [0, 1], 0.5 at its own threshold; valid where there was anything to compare."""

    value: Field
    valid: Valid


class View(NamedTuple):
    """A neighbor laid over the frame: image, where it has pixels, and where these are background as well."""

    image: UInt8[np.ndarray, "H W 3"]
    inside: Valid
    background: Valid


class Behind(NamedTuple):
    """What lies behind the subject of a frame. image: the median of its neighbors; valid: where two have a pixel."""

    image: UInt8[np.ndarray, "H W 3"]
    valid: Valid


class Footage:
    """A sequence at the working size with its camera motion; holds a few dozen reduced frames at a time.

    Args:
        frames: the stored frames.
        homographies: of the stored frames (see `backdrop.homography`).
        size: (W, H), the working size in pixels.
        masks: soft masks of the subject, where an E-step has them.
        capacity: reduced frames kept.
    """

    def __init__(
        self,
        frames: Images,
        homographies: Mapping[str, np.ndarray],
        size: tuple[int, int],
        masks: MaskOf | None = None,
        capacity: int = 96,
    ) -> None:
        self.frames, self.size, self.masks = frames, size, masks
        self.homographies = dict(homographies)
        self.gap = max(1, int(abs(self.homographies["neighbor"][0]))) if len(frames) > 1 else 1
        stored = frames.image(0).shape
        self._scale = resampling((stored[1], stored[0]), size)
        self._cache: OrderedDict[int, np.ndarray] = OrderedDict()
        self._capacity = capacity
        self._mosaic: Mog2 | None = None

    def __len__(self) -> int:
        return len(self.frames)

    def image(self, t: int) -> UInt8[np.ndarray, "H W 3"]:
        """Frame t at the working size."""
        if t not in self._cache:
            self._cache[t] = cv2.resize(self.frames.image(t), self.size, interpolation=cv2.INTER_AREA)
            if len(self._cache) > self._capacity:
                self._cache.popitem(last=False)
        return self._cache[t]

    def motion(self, source: int, target: int) -> Float64[np.ndarray, "3 3"] | None:
        """The homography from frame `source` to frame `target` in working pixels; None where no chain leads there."""
        if not 0 <= source < len(self):
            return None
        H = chain(self.homographies, source, target)
        return None if H is None else self._scale @ H @ np.linalg.inv(self._scale)

    def mosaic(self, t: int) -> Field:
        """The baseline's mask of frame t at the working size, float32 in [0, 1]."""
        if self._mosaic is None:
            self._mosaic = Mog2(self.frames, self.homographies)
        return cv2.resize(self._mosaic.mask(t).astype(np.float32), self.size, interpolation=cv2.INTER_AREA)

    def subject(self, t: int) -> Field | None:
        """The soft mask of frame t, where there are masks."""
        return None if self.masks is None else self.masks(t)


# Scaling and fusion -----------------------------------------------------------------------------------


def scaled(raw: Field, valid: Valid, floor: float) -> Cue:
    """A raw measure >= 0 brought to [0, 1] so that a little above Otsu's threshold (at least `floor`) it is 0.5.

    The square root is taken before: motion and color differences are so skewed that Otsu's rule on them
    finds the fastest limb only.
    """
    root = np.sqrt(np.maximum(raw, 0))
    if not valid.any():
        return Cue(np.zeros_like(raw), valid)
    top = max(float(np.percentile(root[valid], 99.5)), 1e-6)
    bytes_ = np.minimum(root / top * 255, 255).astype(np.uint8)
    level = float(cv2.threshold(bytes_[valid].reshape(-1, 1), 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)[0])
    threshold = max((level + 0.5) / 255 * top, float(np.sqrt(floor)))
    ratio = (root / (MARGIN * threshold)) ** 4
    value = np.where(valid, ratio / (1 + ratio), 0)
    return Cue(value.astype(np.float32), valid)


def fuse(cues: Mapping[str, Cue], size: tuple[int, int], weights: Mapping[str, float] | None = None) -> Cue:
    """Weighted mean of the cues that are valid at a pixel; 0 and not valid where none is.

    Args:
        weights: of the cues by name, positive; None: all alike.
    """
    total = np.zeros((size[1], size[0]), np.float32)
    mass = np.zeros_like(total)
    for name, cue in cues.items():
        weight = 1.0 if weights is None else weights[name]
        total += np.where(cue.valid, weight * cue.value, 0)
        mass += weight * cue.valid
    known = mass > 0
    return Cue(total / np.where(known, mass, 1), known)


def consensus(
    frames: Sequence[Mapping[str, Cue]], size: tuple[int, int], power: float, subjects: int = 1, passes: int = 2
) -> dict[str, float]:
    """How far each cue of a sequence is to be trusted: J of its subject with the fused cues' subject, to a power.

    Begins with equal weights and repeats with the weights found. (The idea of STAPLE, Warfield et al. 2004: who agrees
    with the weighted majority weighs more.)

    Args:
        frames: cues of some of the sequence's frames.
        power: 0: all weights 1.
        subjects: components that a frame's subject may have.

    Returns:
        A weight in [1e-4, 1] for each cue that any frame has, the largest 1.
    """
    names = sorted({name for cues in frames for name in cues})
    weights = dict.fromkeys(names, 1.0)
    if not power:
        return weights
    even = np.ones((size[1], size[0]), np.float32)

    def subject(cue: Cue) -> Valid:
        return subject_component(cue.value, even, subjects=subjects)

    own = [{name: subject(cue) for name, cue in cues.items()} for cues in frames]
    for _ in range(passes):
        agreed: dict[str, list[float]] = {name: [] for name in names}
        for cues, alone in zip(frames, own, strict=True):
            fused = subject(fuse(cues, size, weights))
            for name, part in alone.items():
                either = np.count_nonzero(part | fused)
                agreed[name].append(np.count_nonzero(part & fused) / either if either else 0.0)
        raw = {name: max(float(np.mean(values)), 0.01) ** power for name, values in agreed.items()}
        weights = {name: max(value / max(raw.values()), 1e-4) for name, value in raw.items()}
    return weights


# Motion -----------------------------------------------------------------------------------------------


def _search(fine: bool) -> cv2.DISOpticalFlow:
    preset = cv2.DISOPTICAL_FLOW_PRESET_FAST if fine else cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST  # type: ignore[attr-defined]
    search = cv2.DISOpticalFlow_create(preset)  # type: ignore[attr-defined]
    search.setFinestScale(1)
    return search


def residual_flow(
    target: UInt8[np.ndarray, "H W 3"], source: UInt8[np.ndarray, "H W 3"], H: Float64[np.ndarray, "3 3"], fine: bool
) -> tuple[Float32[np.ndarray, "H W 2"], Valid]:
    """DIS flow from the target to the source laid over it by `H`, and where the source has pixels."""
    warped, inside = warp(source, H, (target.shape[1], target.shape[0]))
    both = np.where(inside[..., None], warped, target)
    gray = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in (target, both)]
    return _search(fine).calc(*gray, None).astype(np.float32), inside  # type: ignore[call-overload]


def background_flow(
    flow: Float32[np.ndarray, "H W 2"], inside: Valid, subject: Field | None
) -> Float32[np.ndarray, "H W 2"]:
    """The residual flow that the background has or would have: parallax and what the homography left over.

    Smooth means (normalized convolution) over the background's pixels, filled in under the subject from around it.
    Without a mask it is the median of the frame, the same everywhere.
    """
    if not inside.any():
        return np.zeros_like(flow)
    if subject is None:
        return np.broadcast_to(np.median(flow[inside], axis=0), flow.shape).astype(np.float32)
    apart = 2 * max(1, flow.shape[0] // 64) + 1
    free = cv2.dilate(subject, np.ones((apart, apart), np.uint8)) < KNOWN
    weight = (free & inside).astype(np.float32)
    if weight.mean() < 0.02:
        return background_flow(flow, inside, None)
    # A few wild vectors (occlusions, flat regions) must not be spread: the median of 5 x 5 takes them off.
    calm = np.dstack([cv2.medianBlur(np.ascontiguousarray(flow[..., i]), 5) for i in (0, 1)])
    total = np.zeros_like(flow)
    mass = np.full(flow.shape[:2], 1e-8, np.float32)
    for sigma, trust in ((flow.shape[0] * REACH, 1.0), (flow.shape[0] / 2, 1e-3)):
        total += trust * _blur(calm * weight[..., None], sigma)
        mass += trust * _blur(weight, sigma)
    return total / mass[..., None]


def _blur(field: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur, on a reduced image where sigma is large."""
    height, width = field.shape[:2]
    factor = max(1, int(sigma / 3))
    small = cv2.resize(field, (max(1, width // factor), max(1, height // factor)), interpolation=cv2.INTER_AREA)
    small = cv2.GaussianBlur(small, (0, 0), sigma / factor, borderType=cv2.BORDER_REPLICATE)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)


def flow_cues(footage: Footage, t: int, gaps: list[int], stored: FlowArchive | None = None) -> dict[str, Cue]:
    """Speed against the background over each gap, looking forward and back.

    Where both directions exist the lower speed counts: the subject moves in both, background that it covers or
    uncovers looks moved in one. In frames in which little moves by `SLOW` pixels over the first gap, all gaps
    are taken 2 or 4 times as long.

    Args:
        gaps: in frames, multiples of the homographies' own gap.
        stored: flow of the stage flow, taken for the frame's own neighbor when there are no masks.

    Returns:
        A cue for each of `gaps` that has a neighbor, named flow<gap>.
    """
    first = _speed(footage, t, gaps[0], stored)
    longer = 1
    if first is not None and first[1].any():
        moving = max(float(np.percentile(first[0][first[1]], 97)), SLOW / 4)
        longer = 2 ** int(np.clip(np.ceil(np.log2(SLOW / moving)), 0, 2))
    cues = {}
    for gap in gaps:
        for factor in (f for f in (4, 2, 1) if f <= longer):  # near the ends of a short sequence: what there is
            found = first if gap * factor == gaps[0] else _speed(footage, t, gap * factor, stored)
            if found is not None:
                cues[f"flow{gap}"] = scaled(*found, MOTION_FLOOR)
                break
    return cues


def _speed(footage: Footage, t: int, gap: int, stored: FlowArchive | None) -> tuple[Field, Valid] | None:
    """The lower of the speeds to t + gap and t - gap in pixels, and where one is known; None without neighbors."""
    speeds = []
    for u in (t + gap, t - gap):
        if stored is not None and footage.masks is None and u == int(footage.homographies["neighbor"][t]):
            flow, inside = _reduced_flow(stored, t, footage.size)
        else:
            H = footage.motion(u, t)
            if H is None:
                continue
            flow, inside = residual_flow(footage.image(t), footage.image(u), H, fine=True)
        if inside.any():
            speed = np.linalg.norm(flow - background_flow(flow, inside, footage.subject(t)), axis=2)
            speeds.append(np.where(inside, speed, np.inf).astype(np.float32))
    if not speeds:
        return None
    least = np.min(speeds, axis=0)
    return np.where(np.isfinite(least), least, 0), np.isfinite(least)


def _reduced_flow(stored: FlowArchive, t: int, size: tuple[int, int]) -> tuple[np.ndarray, Valid]:
    """The stored flow of frame t at the working size, in its pixels."""
    flow, valid = stored.read(t)
    factor = np.array([size[0] / flow.shape[1], size[1] / flow.shape[0]], np.float32)
    small = cv2.resize(flow, size, interpolation=cv2.INTER_AREA) * factor
    return small, resize_soft(valid.astype(np.float32), size) > 0.99


# Background -------------------------------------------------------------------------------------------


def views(footage: Footage, t: int, neighbors: int, spacing: int, parallax: bool) -> list[View]:
    """Up to `neighbors` frames around t, laid over it.

    With masks and `parallax` a neighbor is warped by the background's residual flow besides the homography, so
    that what stands at another depth than the dominant plane fits, too.
    """
    step = footage.gap * max(1, round(spacing / footage.gap))
    reach = range(1, neighbors + 1)
    order = sorted((t + sign * step * k for k in reach for sign in (1, -1)), key=lambda u: abs(u - t))
    found = []
    for u in order:
        H = footage.motion(u, t)
        if H is None:
            continue
        found.append(_lay(footage, u, t, H, parallax))
        if len(found) == neighbors:
            break
    return found


def _lay(footage: Footage, u: int, t: int, H: Float64[np.ndarray, "3 3"], parallax: bool) -> View:
    source, subject = footage.image(u), footage.subject(u)
    image, inside = warp(source, H, footage.size)
    mask = None if subject is None else cv2.warpPerspective(subject, H, footage.size)
    if mask is not None and parallax:
        flow, _ = residual_flow(footage.image(t), source, H, fine=False)
        # flow onto the subject of either frame is none of the background
        both = np.maximum(mask, footage.subject(t))  # type: ignore[arg-type]
        shift = background_flow(flow, inside, both)
        height, width = inside.shape
        x = np.arange(width, dtype=np.float32)[None, :] + shift[..., 0]
        y = np.arange(height, dtype=np.float32)[:, None] + shift[..., 1]
        image = cv2.remap(image, x, y, cv2.INTER_LINEAR)
        inside = cv2.remap(inside.astype(np.float32), x, y, cv2.INTER_LINEAR) > 0.99
        mask = cv2.remap(mask, x, y, cv2.INTER_LINEAR)
    if mask is None:
        return View(image, inside, inside)
    apart = 2 * max(1, footage.size[1] // 96) + 1
    return View(image, inside, inside & (cv2.dilate(mask, np.ones((apart, apart), np.uint8)) < KNOWN))


def median_background(found: list[View]) -> Behind | None:
    """The median color over the views that show background at a pixel; None with fewer than two views.

    Where fewer than two do, all views with a pixel there count.
    """
    if len(found) < 2:
        return None
    images = np.stack([view.image for view in found])
    shown = np.stack([view.background for view in found])
    inside = np.stack([view.inside for view in found])
    shown = np.where(shown.sum(axis=0) >= 2, shown, inside)
    count = shown.sum(axis=0)
    # Left-out samples become the largest value and sort to the end; the median is then at (count - 1) // 2.
    ranked = np.sort(np.where(shown[..., None], images, 255), axis=0)
    middle = np.maximum(count - 1, 0) // 2
    value = np.take_along_axis(ranked, np.broadcast_to(middle[None, ..., None], (1, *images.shape[1:])), axis=0)[0]
    return Behind(value, count >= 2)


def median_cue(image: UInt8[np.ndarray, "H W 3"], behind: Behind) -> Cue:
    """Color difference to the median of the neighbors.

    The difference counts only as far as no pixel of the background nearby has the frame's color: a misfit of a
    pixel at an edge of the background is no subject.
    """
    background, valid = behind
    around = np.ones((3, 3), np.uint8)
    low, high = cv2.erode(background, around), cv2.dilate(background, around)
    beyond = np.maximum(cv2.subtract(image, high), cv2.subtract(low, image)).astype(np.float32)
    exact = cv2.absdiff(image, background).astype(np.float32)
    difference = 0.5 * (beyond.sum(axis=2) + exact.sum(axis=2))
    return scaled(cv2.GaussianBlur(difference, (0, 0), 1), valid, COLOR_FLOOR)


def mog2_cue(image: UInt8[np.ndarray, "H W 3"], found: list[View], behind: Behind) -> Cue:
    """OpenCV's MOG2 on the neighbors: 1 where the frame's color is none of theirs, shadows 0.

    Where a view shows no background, the last one that did stands in, as in a mosaic.
    """
    background, valid = behind
    mosaic = np.where(valid[..., None], background, image)
    mixture = cv2.createBackgroundSubtractorMOG2(PASSES * len(found), MOG2_VARIANCE, detectShadows=True)
    mixture.setBackgroundRatio(BACKGROUND_RATIO)
    for view in found * PASSES:
        mosaic[view.background] = view.image[view.background]
        mixture.apply(mosaic)
    foreground = mixture.apply(image, learningRate=0) == 255
    clean = cv2.medianBlur(foreground.astype(np.uint8), 5).astype(np.float32)
    return Cue(np.where(valid, cv2.GaussianBlur(clean, (0, 0), 1), 0).astype(np.float32), valid)


def frame_cues(footage: Footage, t: int, params: CueChoice, stored: FlowArchive | None = None) -> dict[str, Cue]:
    """All cues of frame t that `params.cues` names and that its neighbors allow: flow<gap>, median, mog2, mosaic."""
    cues: dict[str, Cue] = {}
    if "flow" in params.cues:
        cues |= flow_cues(footage, t, params.gaps, stored)
    if "median" in params.cues or "mog2" in params.cues:
        found = views(footage, t, params.neighbors, params.spacing, params.parallax)
        behind = median_background(found)
        if behind is not None and "median" in params.cues:
            cues["median"] = median_cue(footage.image(t), behind)
        if behind is not None and "mog2" in params.cues:
            cues["mog2"] = mog2_cue(footage.image(t), found, behind)
    if "mosaic" in params.cues and cues:  # without cues no neighbor could be laid over the frame
        value = footage.mosaic(t)
        cues["mosaic"] = Cue(value, np.ones(value.shape, bool))
    return cues


def cue_names(params: CueChoice) -> list[str]:
    """The names that `frame_cues` may give."""
    flows = [f"flow{gap}" for gap in params.gaps] if "flow" in params.cues else []
    return flows + [name for name in ("median", "mog2", "mosaic") if name in params.cues]


# E-step: the camera without the subject ---------------------------------------------------------------


def background_keypoints(image: UInt8[np.ndarray, "h w 3"], subject: np.ndarray, features: int) -> Keypoints:
    """Keypoints of an image that do not lie on or right beside the subject (soft mask of any size)."""
    found = keypoints(image, features)
    height, width = image.shape[:2]
    margin = 2 * max(1, subject.shape[0] // 48) + 1
    wide = cv2.dilate(np.ascontiguousarray(subject, np.float32), np.ones((margin, margin), np.uint8))
    x = (found.points[:, 0] + 0.5) * subject.shape[1] / width
    y = (found.points[:, 1] + 0.5) * subject.shape[0] / height
    column = np.clip(x.astype(int), 0, subject.shape[1] - 1)
    row = np.clip(y.astype(int), 0, subject.shape[0] - 1)
    keep = wide[row, column] < KNOWN
    return Keypoints(found.points[keep], found.descriptors[keep])


def refit(
    frames: Images,
    homographies: Mapping[str, np.ndarray],
    masks: MaskOf,
    params: Stabilization,
    span: range | None = None,
) -> Homographies:
    """The homographies anew, from the keypoints of the background alone.

    A pair that fails (too little background) keeps the homography it had. Arrays as in `stabilize_sequence`.

    Args:
        span: the frames to do; None: all. The others keep what they had.
    """
    result = {key: np.array(value) for key, value in homographies.items()}
    neighbor = result["neighbor"]
    live: OrderedDict[int, tuple[Keypoints, tuple[int, int]]] = OrderedDict()

    def background(t: int) -> tuple[Keypoints, tuple[int, int]]:
        if t not in live:
            image = frames.image(t)
            live[t] = (background_keypoints(image, masks(t), params.features), (image.shape[1], image.shape[0]))
            if len(live) > 2 * params.gap + 2:
                live.popitem(last=False)
        return live[t]

    for t in range(len(frames)) if span is None else span:
        if neighbor[t] == t:
            continue
        target, size = background(t)
        source, _ = background(int(neighbor[t]))
        pair = estimate_homography(source, target, size, params)
        if pair.valid:
            result["H"][t], result["valid"][t], result["reason"][t] = pair.H, True, ""
            result["matches"][t], result["inliers"][t] = pair.matches, pair.inliers
    return result


__all__ = [
    "Behind",
    "Cue",
    "Footage",
    "View",
    "background_flow",
    "background_keypoints",
    "consensus",
    "cue_names",
    "flow_cues",
    "frame_cues",
    "fuse",
    "median_background",
    "median_cue",
    "mog2_cue",
    "refit",
    "scaled",
    "views",
]
