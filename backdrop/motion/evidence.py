"""Evidence of motion around one frame, as the motion network sees it: the same for rendered and for real footage.

Convention: images have a working size (W, H) with even sides; evidence has half of it. A neighbor that does not exist
leaves zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np
from jaxtyping import Bool, Float32, UInt8

from backdrop.io.masks import resize_region
from backdrop.motion.border_layers import border_layers, residuals
from backdrop.motion.flow_field import lengths
from backdrop.motion.neighbors import NeighborView, median_background

GrayImage = UInt8[np.ndarray, "H W"]

Region = Bool[np.ndarray, "H W"] | None
"""A region of interest at the working size; None: the whole image."""

EVIDENCE_GAPS = (1, -1, 2, -2, 4, -4)
"""Neighbors that flow is computed to, in frames."""

FLOW_CHANNELS = 6
"""Residual flow to the first layer (2), least residual over layers, photometric error, scale, and 1 where known."""

SCENE_CHANNELS = 4
"""Texture, difference to the median of the views, share of views that differ, and 1 where there are two views."""

VIEW_OFFSETS = (-28, -18, -10, -5, 5, 10, 18, 28)
"""Frames whose views make the median."""

TEXTURE = 12.0
"""GrayImage levels per pixel at which texture counts half: on snow, sky and blurred ground flow is a guess."""

TEXTURE_REACH = 3.0
"""Sigma in pixels over which texture is averaged."""

DIFFERENT = 45.0
"""Sum over RGB by which a view differs from the frame."""

LEAST_SCALE = 0.3
"""Pixels added to the 98th percentile of a residual flow, by which it is divided: noise must not fill the range."""

MOST_PIXELS = 320 * 192

MULTIPLE = 32
"""Sides are multiples of this: evidence has half the size, and the network halves it four times."""


def evidence_size(size: tuple[int, int]) -> tuple[int, int]:
    """The working size (W, H) for images of `size`: about their aspect, at most `MOST_PIXELS`, sides of `MULTIPLE`."""
    factor = min(1.0, (MOST_PIXELS / (size[0] * size[1])) ** 0.5)
    width, height = (max(MULTIPLE, round(side * factor / MULTIPLE) * MULTIPLE) for side in size)
    return width, height


def texture(gray: GrayImage) -> Float32[np.ndarray, "H W"]:
    """How far flow can be trusted, in [0, 1): e / (e + `TEXTURE`), e the root mean square gradient around a pixel."""
    image = gray.astype(np.float32)
    x, y = (cv2.Sobel(image, -1, dx, 1 - dx) / 8 for dx in (1, 0))
    energy = np.sqrt(cv2.GaussianBlur(x * x + y * y, (0, 0), TEXTURE_REACH))
    return (energy / (energy + TEXTURE)).astype(np.float32)


def flow_evidence(
    image: Callable[[int], GrayImage], t: int, count: int, longer: int = 1, region: Region = None
) -> Float32[np.ndarray, "G C h w"]:
    """Residual flow from frame t to each of `EVIDENCE_GAPS`, against the background's layers.

    Args:
        image: frame number -> gray image at the working size.
        count: frames of the sequence.
        longer: factor on the gaps.
        region: of interest, at the working size: nothing outside says how the background moves, or has evidence
            itself. None: the whole image.

    Returns:
        (gaps, `FLOW_CHANNELS`, H / 2, W / 2).
    """
    target = image(t)
    height, width = target.shape
    found = np.zeros((len(EVIDENCE_GAPS), FLOW_CHANNELS, height // 2, width // 2), np.float32)
    search = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)  # type: ignore[attr-defined]
    search.setFinestScale(1)
    for planes, gap in zip(found, EVIDENCE_GAPS, strict=True):
        if 0 <= t + gap * longer < count:
            source = image(t + gap * longer)
            flow = search.calc(target, source, None)  # type: ignore[call-overload]
            _against_layers(planes, target, source, flow, region)
    return found


def fastest_motion(evidence: Float32[np.ndarray, "G C h w"]) -> float:
    """The 98th percentile of motion against the layers, in pixels, at the neighbor where it is largest."""
    known = evidence[:, 5, 0, 0] > 0
    return float(np.exp(2 * evidence[known, 4, 0, 0]).max()) - LEAST_SCALE if known.any() else 0.0


def _against_layers(
    planes: np.ndarray, target: GrayImage, source: GrayImage, flow: Float32[np.ndarray, "H W 2"], region: Region
) -> None:
    """Fill the planes of one neighbor; they stay zero where no layer has support."""
    models = border_layers(flow, region)
    if not models:
        return
    left = residuals(flow, models)
    least = np.min([lengths(one) for one in left], axis=0)
    height, width = target.shape
    x = np.arange(width, dtype=np.float32)[None, :] + flow[..., 0]
    y = np.arange(height, dtype=np.float32)[:, None] + flow[..., 1]
    warped = cv2.remap(source, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    scale = float(np.percentile(least if region is None else least[region], 98)) + LEAST_SCALE
    planes[0:2] = np.clip(halved(left[0]).transpose(2, 0, 1) / scale, -4, 4)
    planes[2] = np.clip(halved(least) / scale, 0, 4)
    planes[3] = np.clip(halved(cv2.absdiff(target, warped).astype(np.float32)) / 20, 0, 4)
    if region is not None:
        planes[0:4] *= resize_region(region, (planes.shape[2], planes.shape[1]))
    planes[4] = np.log(scale) / 2
    planes[5] = 1


def scene_evidence(
    image: UInt8[np.ndarray, "H W 3"],
    views: Sequence[tuple[UInt8[np.ndarray, "h w 3"], Bool[np.ndarray, "h w"]]],
) -> Float32[np.ndarray, "4 h w"]:
    """Texture of a frame, and its difference to other frames laid over it.

    Args:
        image: RGB at the working size.
        views: RGB at half of it, and where they show background.
    """
    small = halved(image)
    found = np.zeros((SCENE_CHANNELS, *small.shape[:2]), np.float32)
    found[0] = halved(texture(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)))
    if len(views) < 2:
        return found
    background = median_background([NeighborView(view, inside, inside) for view, inside in views])
    assert background is not None
    median, known = background
    shown = np.stack([inside for _, inside in views])
    images = np.stack([view for view, _ in views])
    difference = cv2.absdiff(small, median).astype(np.float32).sum(axis=2)
    apart = np.abs(images.astype(np.int16) - small).sum(axis=3) > DIFFERENT
    found[1] = np.where(known, np.clip(difference / 60, 0, 4), 0)
    found[2] = np.where(known, (apart & shown).sum(axis=0) / np.maximum(shown.sum(axis=0), 1), 0)
    found[3] = known
    return found


def halved(image: np.ndarray) -> np.ndarray:
    """Means over 2 x 2 pixels, in the image's type."""
    return cv2.resize(image, (image.shape[1] // 2, image.shape[0] // 2), interpolation=cv2.INTER_AREA)
