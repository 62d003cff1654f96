"""A frame's stabilized neighbors: views laid over it, their median, and the residual flow to them.

Convention: all fields have the working size; positions and flow are in its pixels, x to the right, y down, pixel
centers at integers. Masks say 1 for foreground.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float32, Float64, UInt8

from backdrop.io.masks import Mask, resize_region
from backdrop.motion.homography import Images, chain, resampling, warp

Field = Float32[np.ndarray, "H W"]

Valid = Bool[np.ndarray, "H W"]

MaskOf = Callable[[int], np.ndarray]
"""t -> the subject's soft mask in frame t, (H, W) float32 in [0, 1] at the working size."""

REACH = 0.2
"""Smoothness of the background's flow, share of the image's height: what the masks miss of the subject must not
explain its own motion away, as it does at 0.04."""

KNOWN = 0.5
"""A soft mask above this keeps its pixel out of the background."""


class NeighborView(NamedTuple):
    """A neighbor laid over the frame: image, where it has pixels, and where these are background as well."""

    image: UInt8[np.ndarray, "H W 3"]
    inside: Valid
    background: Valid


class Background(NamedTuple):
    """What lies behind the subject of a frame. image: the median of its neighbors; valid: where two have a pixel."""

    image: UInt8[np.ndarray, "H W 3"]
    valid: Valid


class StabilizedSequence:
    """A sequence at the working size with its camera motion; holds a few dozen reduced frames at a time.

    Args:
        frames: the stored frames.
        homographies: of the stored frames (see `backdrop.motion.homography`).
        size: (W, H), the working size in pixels.
        masks: soft masks of the subject, where an E-step has them.
        capacity: reduced frames that are held at a time.
        region: of interest, of any size, True inside; None: the whole image.
    """

    def __init__(
        self,
        frames: Images,
        homographies: Mapping[str, np.ndarray],
        size: tuple[int, int],
        masks: MaskOf | None = None,
        capacity: int = 96,
        *,
        region: Mask | None = None,
    ) -> None:
        self.frames, self.size, self.masks = frames, size, masks
        self.homographies = dict(homographies)
        self.gap = max(1, int(abs(self.homographies["neighbor"][0]))) if len(frames) > 1 else 1
        stored = frames.image(0).shape
        self._scale = resampling((stored[1], stored[0]), size)
        self._cache: OrderedDict[int, np.ndarray] = OrderedDict()
        self._capacity = capacity
        self.region: Valid | None = None if region is None else resize_region(region, size)

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

    def laid(self, u: int, H: Float64[np.ndarray, "3 3"]) -> tuple[UInt8[np.ndarray, "H W 3"], Valid]:
        """Frame u laid over another one by `H`, and where it has pixels of the region of interest."""
        image, inside = warp(self.image(u), H, self.size)
        return image, inside if self.region is None else inside & lay_region(self.region, H, self.size)

    def subject(self, t: int) -> Field | None:
        """The soft mask of frame t, where there are masks."""
        return None if self.masks is None else self.masks(t)


def lay_region(region: Valid, H: Float64[np.ndarray, "3 3"], size: tuple[int, int]) -> Bool[np.ndarray, "_ _"]:
    """A frame's region of interest laid over another frame by `H`: no pixel that is in part outside."""
    return cv2.warpPerspective(region.view(np.uint8) * 255, H, size) == 255


def residual_flow(
    target: UInt8[np.ndarray, "H W 3"], source: UInt8[np.ndarray, "H W 3"], H: Float64[np.ndarray, "3 3"]
) -> tuple[Float32[np.ndarray, "H W 2"], Valid]:
    """DIS flow from the target to the source laid over it by `H`, and where the source has pixels."""
    warped, inside = warp(source, H, (target.shape[1], target.shape[0]))
    both = np.where(inside[..., None], warped, target)
    gray = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in (target, both)]
    search = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)  # type: ignore[attr-defined]
    search.setFinestScale(1)
    return search.calc(*gray, None).astype(np.float32), inside  # type: ignore[call-overload]


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


def views(sequence: StabilizedSequence, t: int, neighbors: int, spacing: int, parallax: bool) -> list[NeighborView]:
    """Up to `neighbors` frames around t, laid over it.

    With masks and `parallax` a neighbor is warped by the background's residual flow besides the homography, so
    that what stands at another depth than the dominant plane fits, too.
    """
    step = sequence.gap * max(1, round(spacing / sequence.gap))
    reach = range(1, neighbors + 1)
    order = sorted((t + sign * step * k for k in reach for sign in (1, -1)), key=lambda u: abs(u - t))
    found = []
    for u in order:
        H = sequence.motion(u, t)
        if H is None:
            continue
        found.append(_lay(sequence, u, t, H, parallax))
        if len(found) == neighbors:
            break
    return found


def _lay(sequence: StabilizedSequence, u: int, t: int, H: Float64[np.ndarray, "3 3"], parallax: bool) -> NeighborView:
    source, subject = sequence.image(u), sequence.subject(u)
    image, inside = sequence.laid(u, H)
    mask = None if subject is None else cv2.warpPerspective(subject, H, sequence.size)
    if mask is not None and parallax:
        flow, _ = residual_flow(sequence.image(t), source, H)
        # Flow onto the subject of either frame is not the background's.
        both = np.maximum(mask, sequence.subject(t))  # type: ignore[arg-type]
        shift = background_flow(flow, inside, both)
        height, width = inside.shape
        x = np.arange(width, dtype=np.float32)[None, :] + shift[..., 0]
        y = np.arange(height, dtype=np.float32)[:, None] + shift[..., 1]
        image = cv2.remap(image, x, y, cv2.INTER_LINEAR)
        inside = cv2.remap(inside.astype(np.float32), x, y, cv2.INTER_LINEAR) > 0.99
        mask = cv2.remap(mask, x, y, cv2.INTER_LINEAR)
    if mask is None:
        return NeighborView(image, inside, inside)
    apart = 2 * max(1, sequence.size[1] // 96) + 1
    return NeighborView(image, inside, inside & (cv2.dilate(mask, np.ones((apart, apart), np.uint8)) < KNOWN))


def median_background(found: list[NeighborView]) -> Background | None:
    """The median color over the views that show background at a pixel; None with fewer than two views.

    Where fewer than two do, all views with a pixel there count.
    """
    if len(found) < 2:
        return None
    shown = np.stack([view.background for view in found])
    few = shown.sum(axis=0, dtype=np.uint16) < 2
    if few.any():
        shown = np.where(few, np.stack([view.inside for view in found]), shown)
    count = shown.sum(axis=0, dtype=np.uint16)
    # Left-out samples become the largest value and sort to the end; the median is then at (count - 1) // 2.
    hidden = np.where(shown, np.uint8(0), np.uint8(255))[..., None]
    ranked = sort_planes([view.image | out for view, out in zip(found, hidden, strict=True)])
    middle = (np.maximum(count, 1) - 1) // 2
    value = ranked[0]
    for k in range(1, int(middle.max()) + 1):
        np.copyto(value, ranked[k], where=(middle == k)[..., None])
    return Background(value, count >= 2)


def sort_planes(planes: Sequence[UInt8[np.ndarray, "*shape"]]) -> list[UInt8[np.ndarray, "*shape"]]:
    """Sort pixel by pixel, the least values into the first plane: `np.sort` over a stack, 40 times as fast.

    Whole planes are compared with one another, by Batcher's odd-even merge sort (Knuth, The Art of Computer
    Programming 3, 5.2.2, algorithm M). The planes that are given are overwritten.
    """
    found = list(planes)
    spare = np.empty_like(found[0])
    for low, high in comparisons(len(found)):
        np.minimum(found[low], found[high], out=spare)
        np.maximum(found[low], found[high], out=found[high])
        found[low], spare = spare, found[low]
    return found


@cache
def comparisons(count: int) -> list[tuple[int, int]]:
    """The pairs of places that the merge sort of so many values compares, in order."""
    pairs = []
    size = 1
    while size < count:
        step = size
        while step:
            for begin in range(step % size, count - step, 2 * step):
                for low in range(begin, begin + min(step, count - begin - step)):
                    if low // (2 * size) == (low + step) // (2 * size):
                        pairs.append((low, low + step))
            step //= 2
        size *= 2
    return pairs
