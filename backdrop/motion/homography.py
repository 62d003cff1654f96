"""Homographies between a frame and its neighbor, from SIFT matches and MAGSAC.

Convention of every homography here: `H` maps PIXEL coordinates `(x, y, 1)` of the source image to those of the target
image, x to the right, y down, centers of pixels at integer coordinates (as OpenCV has it).
`cv2.warpPerspective(source, H, (width, height))` thus lays the source over the target. The source of `H[t]` is the
neighbor of frame t, the target is frame t.

Results are reproducible to the bit: matching is exhaustive (SIFT descriptors hold small integers, so that squared
distances in float32 are exact in any order of summation), and OpenCV's USAC draws from a generator of its own with a
fixed state.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int, UInt8

from backdrop.errors import BackdropError
from backdrop.io.files import atomic_path
from backdrop.io.masks import resize_region
from backdrop.motion.parameters import StabilizeParams

Homographies = dict[str, np.ndarray]

FIELDS = ("H", "neighbor", "valid", "matches", "inliers", "reason")

DETECTION_SIDE = 640
"""Keypoints are found on an image reduced to this side: a third faster at 480p, while the median
error of the homographies' corners on rendered pairs grows from 0.06 to 0.07 pixels."""

REGION_MARGIN = 4
"""Pixels of the reduced image between a keypoint and what is outside of the region of interest."""

MIN_SPREAD = 0.01
"""Inliers whose standard deviation across their main direction is below this share of the longer
image side lie on a line: they leave a homography undetermined."""

BORDER = 0.1
"""Width of the border along the image's edges, a share of its sides, that the background is expected to show in."""

MOTIONS = 3
"""Motions looked for in a pair of frames."""


@runtime_checkable
class Images(Protocol):
    """A sequence of frames: RGB uint8 (H, W, 3), all of one size."""

    def __len__(self) -> int: ...

    def image(self, t: int) -> np.ndarray: ...


@dataclass(frozen=True)
class Keypoints:
    """SIFT keypoints: pixel coordinates (x, y) in the full image, and descriptors of integers 0..255."""

    points: Float64[np.ndarray, "n 2"]
    descriptors: Float32[np.ndarray, "n 128"]

    def __len__(self) -> int:
        return len(self.points)


class PairEstimate(NamedTuple):
    """A homography, or the reason why there is none (`H` is the identity then, `valid` False)."""

    H: Float64[np.ndarray, "3 3"]
    valid: bool
    reason: str
    matches: int
    inliers: int


def keypoints(
    image: UInt8[np.ndarray, "h w 3"], features: int = 2000, region: Bool[np.ndarray, "h w"] | None = None
) -> Keypoints:
    """SIFT keypoints of an RGB image, at most `features`; none on a flat image.

    Large images are reduced to `DETECTION_SIDE` first; the coordinates are those of the full image.

    Args:
        region: keypoints lie in it, a few pixels away from what is outside; None: anywhere.
    """
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    height, width = gray.shape
    shrink = min(1.0, DETECTION_SIDE / max(height, width))
    small = (max(1, round(width * shrink)), max(1, round(height * shrink)))
    if shrink < 1:
        gray = cv2.resize(gray, small, interpolation=cv2.INTER_AREA)
    # Without the precise upscale SIFT's coordinates are biased, and a zoom does not cancel the bias.
    # SIFT chooses the strongest before it looks at a mask, and they may all lie outside: with a region it gives all.
    most = features if region is None else 0
    sift = cv2.SIFT_create(most, enable_precise_upscale=True)  # type: ignore[attr-defined]
    found, descriptors = sift.detectAndCompute(gray, None if region is None else _well_inside(region, small))
    if descriptors is None:
        return Keypoints(np.empty((0, 2)), np.empty((0, 128), np.float32))
    if region is not None:
        order = np.argsort([-point.response for point in found], kind="stable")[:features]
        found, descriptors = [found[k] for k in order], descriptors[order]
    # OpenCV may return a few more than asked for, when responses tie.
    points = np.array([point.pt for point in found[:features]], np.float64).reshape(-1, 2)
    points = (points + 0.5) * (width / small[0], height / small[1]) - 0.5
    return Keypoints(points, np.ascontiguousarray(descriptors[:features], np.float32))


def _well_inside(region: Bool[np.ndarray, "h w"], size: tuple[int, int]) -> UInt8[np.ndarray, "_ _"]:
    """255 where a keypoint may lie: not beside the region's edge, where it would be a corner of what is outside."""
    side = 2 * REGION_MARGIN + 1
    return cv2.erode(resize_region(region, size).view(np.uint8) * 255, np.ones((side, side), np.uint8))  # type: ignore[return-value]


def match(source: Keypoints, target: Keypoints, ratio: float) -> tuple[Int[np.ndarray, " m"], Int[np.ndarray, " m"]]:
    """Indices of matching keypoints: mutual nearest neighbors that pass Lowe's ratio test.

    A source keypoint passes if its nearest descriptor is nearer than `ratio` times its second-nearest.
    """
    none = np.empty(0, np.intp)
    if len(source) < 1 or len(target) < 2:
        return none, none
    a, b = source.descriptors, target.descriptors
    squared = (a * a).sum(1)[:, None] + (b * b).sum(1)[None] - 2 * (a @ b.T)
    rows = np.arange(len(a))
    nearest = squared.argmin(1)
    mutual = squared.argmin(0)[nearest] == rows
    first = squared[rows, nearest]
    squared[rows, nearest] = np.inf
    keep = mutual & (first < ratio**2 * squared.min(1))
    return rows[keep], nearest[keep]


def implausible(H: Float64[np.ndarray, "3 3"], size: tuple[int, int], max_scale: float) -> str:
    """Why no camera moved like this, or "" for a plausible homography.

    `H` must be finite and invertible, and at each corner of an image of `size` (width, height) it must
    be in front of the camera, not mirrored, and stretch no direction by more than `max_scale` nor
    shrink it by more (the singular values of its Jacobian).
    """
    if not np.isfinite(H).all():
        return "homography is not finite"
    if abs(H[2, 2]) < 1e-9 or np.linalg.cond(H / H[2, 2]) > 1e12:
        return "homography is not invertible"
    H = H / H[2, 2]
    width, height = size
    for x, y in ((0, 0), (width - 1, 0), (width - 1, height - 1), (0, height - 1)):
        u, v, w = H @ (x, y, 1.0)
        if w <= 1e-6:
            return "homography takes a corner behind the camera"
        jacobian = (H[:2, :2] - np.outer((u, v), H[2, :2]) / w) / w
        if np.linalg.det(jacobian) <= 0:
            return "homography mirrors the image"
        stretch = np.linalg.svd(jacobian, compute_uv=False)
        if stretch[0] > max_scale or stretch[1] < 1 / max_scale:
            return f"implausible scale {stretch[0 if stretch[0] > max_scale else 1]:.2f}"
    return ""


def estimate_homography(
    source: Keypoints, target: Keypoints, size: tuple[int, int], params: StabilizeParams
) -> PairEstimate:
    """The homography that lays the source over the target, from their keypoints.

    Args:
        size: (width, height) of both images in pixels.
        params: ratio, threshold (pixels), min_inliers, max_scale.

    Never raises for bad input: the reason is recorded in the result.
    """

    def failed(reason: str, matches: int = 0, inliers: int = 0) -> PairEstimate:
        return PairEstimate(np.eye(3), False, reason, matches, inliers)

    for which, points in (("source", source), ("target", target)):
        if len(points) < params.min_inliers:
            return failed(f"{len(points)} keypoints in the {which} frame")
    i, j = match(source, target, params.ratio)
    a, b = source.points[i], target.points[j]
    finite = np.isfinite(a).all(1) & np.isfinite(b).all(1)
    a, b = a[finite], b[finite]
    count = len(a)
    if count < max(4, params.min_inliers):
        return failed(f"{count} matches", count)
    try:
        H, inliers = _background_motion(a, b, size, params)
    except cv2.error as error:
        return failed(f"MAGSAC failed: {error.err}", count)
    if H is None:
        return failed("MAGSAC found no homography", count)
    agreeing = int(inliers.sum())
    if agreeing < params.min_inliers:
        return failed(f"{agreeing} inliers", count, agreeing)
    if min(_spread(a[inliers]), _spread(b[inliers])) < MIN_SPREAD * max(size):
        return failed("inliers lie on a line", count, agreeing)
    reason = implausible(H, size, params.max_scale)
    if reason:
        return failed(reason, count, agreeing)
    polished = _polish(H, a[inliers], b[inliers], params.threshold)
    if not implausible(polished, size, params.max_scale):
        H = polished
    return PairEstimate(H / H[2, 2], True, "", count, agreeing)


def _background_motion(
    source: Float64[np.ndarray, "n 2"],
    target: Float64[np.ndarray, "n 2"],
    size: tuple[int, int],
    params: StabilizeParams,
) -> tuple[Float64[np.ndarray, "3 3"] | None, Bool[np.ndarray, " n"]]:
    """The homography that explains most matches, and which; unless they say that it is the subject's.

    A subject that fills the frame can have most of the matches, but the background has those along the border. While
    more of these contradict a motion than agree with it, another is looked for among the matches that no motion
    explains yet; of all, the one that explains most matches along the border is taken.
    """
    apart = np.minimum(target, np.array(size, np.float64) - target) / np.array(size, np.float64)
    border = apart.min(axis=1) < BORDER
    free = np.ones(len(source), bool)
    found: list[tuple[np.ndarray, np.ndarray]] = []
    while len(found) < MOTIONS and free.sum() >= max(4, params.min_inliers):
        H, mask = cv2.findHomography(
            source[free], target[free], cv2.USAC_MAGSAC, params.threshold, maxIters=10_000, confidence=0.9999
        )
        if H is None or mask is None:
            break
        inliers = np.zeros(len(source), bool)
        inliers[np.flatnonzero(free)[mask.ravel() > 0]] = True
        if found and inliers.sum() < params.min_inliers:
            break
        found.append((H, inliers))
        free &= ~inliers
        if 2 * np.count_nonzero(border & inliers) >= np.count_nonzero(border):
            break
    if not found:
        return None, ~free
    return max(found, key=lambda motion: np.count_nonzero(border & motion[1]))


def _spread(points: Float64[np.ndarray, "n 2"]) -> float:
    """Standard deviation of points across their main direction, in pixels."""
    return float(np.linalg.svd(points - points.mean(0), compute_uv=False)[1] / np.sqrt(len(points)))


def _polish(
    H: Float64[np.ndarray, "3 3"],
    source: Float64[np.ndarray, "n 2"],
    target: Float64[np.ndarray, "n 2"],
    threshold: float,
) -> Float64[np.ndarray, "3 3"]:
    """Least squares on the inliers whose residual is ordinary.

    A subject that moves by less than the inlier threshold hides among the inliers and would pull the
    background along; three times the median residual (at least half a pixel) keeps it out.
    """
    for _ in range(2):
        mapped = cv2.perspectiveTransform(source[None], H)[0]
        residual = np.linalg.norm(mapped - target, axis=1)
        ordinary = residual <= np.clip(3 * np.median(residual), 0.5, threshold)
        if ordinary.sum() < 8:
            return H
        refined, _ = cv2.findHomography(source[ordinary], target[ordinary], 0)
        if refined is None or not np.isfinite(refined).all():
            return H
        H = refined
    return H


def neighbor_of(t: int, count: int, gap: int) -> int:
    """The neighbor of frame t: t + gap, or t - gap when that is past the end, or t where neither exists."""
    if t + gap < count:
        return t + gap
    return t - gap if t >= gap else t


def resampling(size: tuple[int, int], small: tuple[int, int]) -> Float64[np.ndarray, "3 3"]:
    """The homography that `cv2.resize` from size (W, H) to small is.

    Convention: pixels (x, y, 1) of the large image to those of the small one; the images' EDGES coincide, so the
    centers shift by half a pixel.
    """
    fx, fy = small[0] / size[0], small[1] / size[1]
    return np.array([[fx, 0, fx / 2 - 0.5], [0, fy, fy / 2 - 0.5], [0, 0, 1]])


def chain(homographies: Mapping[str, np.ndarray], source: int, target: int) -> Float64[np.ndarray, "3 3"] | None:
    """The homography from frame `source` to frame `target`, composed of the neighbors between them.

    Convention: pixel coordinates (x, y, 1) of the source to those of the target (see the module).

    Returns:
        (3, 3) float64 with H[2, 2] = 1, or None if a link is invalid or the frames are not linked
        (with a gap g, frames are linked when their distance is a multiple of g).
    """
    H, neighbor, valid = (homographies[key] for key in ("H", "neighbor", "valid"))
    count = len(H)
    if not (0 <= source < count and 0 <= target < count):
        raise IndexError(f"frames {source} and {target} of {count}")
    if source == target:
        return np.eye(3)
    gap = int(abs(neighbor[0]))
    if gap == 0 or (target - source) % gap:
        return None
    low, high = min(source, target), max(source, target)
    links = range(low, high, gap)  # H[t] maps t + gap to t
    if not all(valid[t] for t in links):
        return None
    down = np.eye(3)
    for t in links:
        down = down @ H[t]
    result = down if source > target else np.linalg.inv(down)
    return result / result[2, 2]


def warp(
    image: UInt8[np.ndarray, "h w *c"], H: Float[np.ndarray, "3 3"], size: tuple[int, int]
) -> tuple[UInt8[np.ndarray, "hh ww *c"], Bool[np.ndarray, "hh ww"]]:
    """Lay a source image over the target.

    Convention: `H` maps source pixels (x, y) to target pixels; `size` is the target's (width, height);
    bilinear; 0 outside. In the mask True is inside the source's view.

    Raises:
        BackdropError: `H` is not finite or not invertible (OpenCV would answer with a black image).
    """
    if not np.isfinite(H).all() or abs(np.linalg.det(H)) < 1e-12:
        raise BackdropError(f"cannot warp by a homography that is not finite and invertible: {H.tolist()}")
    warped = cv2.warpPerspective(image, H, size, flags=cv2.INTER_LINEAR)
    inside = cv2.warpPerspective(np.full(image.shape[:2], 255, np.uint8), H, size, flags=cv2.INTER_LINEAR)
    return warped, inside == 255


def save_homographies(path: str | Path, homographies: Mapping[str, np.ndarray]) -> None:
    """Write the arrays of `stabilize_sequence` to an npz file, whole or not at all."""
    with atomic_path(path) as temporary:
        np.savez(temporary, **{key: homographies[key] for key in FIELDS})  # type: ignore[arg-type]


def load_homographies(path: str | Path) -> Homographies:
    """Read the arrays that `save_homographies` wrote.

    Raises:
        BackdropError: the file is missing, damaged, or lacks an array.
    """
    remedy = "run the stage stabilize again"
    try:
        with np.load(path, allow_pickle=False) as stored:
            homographies = {key: stored[key] for key in FIELDS}
    except FileNotFoundError:
        raise BackdropError(f"{path} does not exist: {remedy}") from None
    except Exception as error:  # a damaged zip raises any of five types
        raise BackdropError(f"{path} is no file of homographies ({error}): {remedy}") from None
    count = len(homographies["H"])
    if homographies["H"].shape != (count, 3, 3) or any(len(homographies[key]) != count for key in FIELDS):
        raise BackdropError(f"{path} holds arrays of unequal lengths: {remedy}")
    return homographies
