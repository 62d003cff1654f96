"""What the page shows of a frame, and the files that it offers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from backdrop.app.exports.cutouts import cut_out
from backdrop.app.page.segmented_file import Progress, SegmentedFile
from backdrop.app.reader import Found
from backdrop.crf.dense import refine
from backdrop.crf.findings import best_finding
from backdrop.crf.parameters import CRFParams
from backdrop.draw import RED, Picture, draw_detection, draw_mask
from backdrop.io.archives import ArchiveWriter
from backdrop.io.files import atomic_path
from backdrop.io.images import encode_png
from backdrop.io.masks import Box, Mask, box_pixels, entry
from backdrop.video.redraw import redraw_video


class FrameView(NamedTuple):
    """What is shown of a frame: mask and box drawn in; the mask, (H, W), True = foreground; cell probabilities."""

    overlay: Picture
    mask: Mask
    cells: Picture


def draw_frame(found: Found, threshold: float, crf: CRFParams | None = None) -> FrameView:
    """A frame at a threshold.

    Args:
        threshold: in [0, 1]; foreground is above it.
        crf: None: the thresholded soft mask is the mask.
    """
    image, prediction = found.frame.image, found.prediction
    soft, box = prediction.mask, prediction.box
    found_box = best_finding(box, prediction.p)
    mask = soft > threshold if crf is None else refine(image, soft, threshold, crf, found_box)  # type: ignore[arg-type] # a Literal
    return FrameView(
        draw_box(draw_mask(image, mask), box), mask, draw_detection(image, box, prediction.cell, prediction.p)
    )


def draw_box(image: Picture, box: Box) -> Picture:
    """The image with a box drawn in: cx, cy, w, h in [-1, 1] image coordinates. A box with NaN is not drawn."""
    picture = image.copy()
    if np.isfinite(box).all():
        height, width = picture.shape[:2]
        left, top, right, bottom = (round(edge) for edge in box_pixels(box, (width, height)))
        cv2.rectangle(picture, (left, top), (right - 1, bottom - 1), RED, max(1, round(width / 320)), cv2.LINE_AA)
    return picture


def write_mask(segmented: SegmentedFile, mask: Mask) -> Path:
    """The mask of an image as PNG (0 and 255), in the folder of the file. One of another threshold is replaced."""
    target = segmented.folder / f"{Path(segmented.source.name).name}_mask.png"
    with atomic_path(target) as temporary:
        temporary.write_bytes(mask_png(mask))
    return target


def write_cut_out(segmented: SegmentedFile, mask: Mask) -> Path:
    """The image with the mask as alpha, as PNG; see `write_mask`."""
    target = segmented.folder / f"{Path(segmented.source.name).name}_cutout.png"
    with atomic_path(target) as temporary:
        Image.fromarray(cut_out(segmented.frames[0].frame.image, mask)).save(temporary)
    return target


def write_clip(
    segmented: SegmentedFile, threshold: float, crf: CRFParams | None = None, progress: Progress | None = None
) -> tuple[Path, Path, str]:
    """Write the masks of a video as a zip, and the video with them drawn in as MP4.

    The zip holds PNGs (0 and 255), named by the frame's number in the file.

    Returns:
        (zip, MP4) in the folder of the file; those of another threshold are replaced. Then why sound is missing, or "".

    Raises:
        BackdropError: the frames differ in size, or the disk is full.
    """
    name = Path(segmented.source.name).name
    assert segmented.info is not None  # it is a video
    masks, video = segmented.folder / f"{name}_masks.zip", segmented.folder / f"{name}_overlay.mp4"
    with ArchiveWriter(masks) as archive:

        def drawn() -> Iterator[np.ndarray]:
            for done, found in enumerate(segmented.frames, 1):
                view = draw_frame(found, threshold, crf)
                archive.add(entry(found.frame.number), mask_png(view.mask))
                height, width = view.mask.shape
                if progress is not None:
                    progress(done, len(segmented.frames))
                # browsers play H.264 of even sides only
                yield np.pad(view.overlay, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")

        times = [*(found.frame.time for found in segmented.frames), segmented.end]
        lost = redraw_video(video, drawn(), times, segmented.info, whole=not segmented.cut)
    return masks, video, lost


def mask_png(mask: Mask) -> bytes:
    """A mask as PNG: 0 and 255."""
    return encode_png(mask.astype(np.uint8) * 255)
