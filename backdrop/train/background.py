"""Known backgrounds: Algorithm 1's exists(B), for cameras that stand still and for cameras that move."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from backdrop.errors import BackdropError
from backdrop.io.frame_archive import FrameArchive
from backdrop.io.images import RGB, decode_image
from backdrop.io.masks import MaskArchive
from backdrop.motion.homography import Homographies, load_homographies
from backdrop.motion.neighbors import MaskOf, StabilizedSequence, median_background, views
from backdrop.train.parameters import BackgroundParams

OVERSAMPLING = 2
"""A median is taken at up to this many times the training resolution. Laying frames over one another blurs by about a
pixel: at the training resolution fine textures would differ by that much."""


SEQUENCES = 8
"""Sequences whose reduced frames are held at a time: the frames of a batch come from several."""

FRAMES_BYTES = 256 * 2**20
"""Memory for these frames, of all sequences together, in each process that loads frames."""


ENLARGED = 32
"""Given masks grow by this part of the image's height on all sides: what they miss of the subject would color all that
is filled from around them."""

FILLING = 3
"""Radius in pixels from which a pixel is filled."""


def nearest_color(image: RGB, background: RGB, reach: int) -> RGB:
    """For each pixel of the background the one within `reach` pixels whose color is nearest to the image's.

    A misfit of up to `reach` pixels at an edge of the background then is no difference; a subject whose color is not
    there stays one.
    """
    height, width = image.shape[:2]
    padded = np.pad(background, ((reach, reach), (reach, reach), (0, 0)), mode="edge")
    best, least = background, None
    for y in range(2 * reach + 1):
        for x in range(2 * reach + 1):
            moved = padded[y : y + height, x : x + width]
            distance = np.square(image.astype(np.int32) - moved).sum(axis=2)
            if least is None:
                best, least = moved.copy(), distance
                continue
            nearer = distance < least
            best[nearer] = moved[nearer]
            least = np.minimum(least, distance)
    return best


class Backgrounds:
    """The background of a frame at training resolution and where it is known.

    `known`: one image for all frames. `median`, `auto`: the median of the stabilized neighbors, known where at least
    two of them show the pixel; where a subject rests on a pixel longer than the neighbors reach, it is in the median,
    unless `background.masks` say where it is: what only the subject covers is then filled from around it, and not known
    with `auto`. With `tolerance`, the color within so many pixels that is nearest to the
    frame's.

    Args:
        size: (W, H) of the training resolution.

    Raises:
        BackdropError: `background.file` is no image, or `background.masks` no folder.
    """

    def __init__(self, params: BackgroundParams, homographies_dir: Path, size: tuple[int, int]) -> None:
        self.params, self.homographies_dir, self.size = params, homographies_dir, size
        self._motions: dict[Path, Homographies] = {}
        self._sequences: OrderedDict[Path, StabilizedSequence] = OrderedDict()
        self.image: RGB | None = None
        self.masks = None if params.masks is None else Path(params.masks)
        if self.masks is not None and not self.masks.is_dir():
            raise BackdropError(f"background.masks={self.masks} is no folder; give the masks of an earlier run")
        if params.kind == "known":
            path = Path(str(params.file))
            if not path.is_file():
                raise BackdropError(f"background.file={path} does not exist; give an image of the empty scene")
            self.image = cv2.resize(decode_image(path), size, interpolation=cv2.INTER_AREA)

    def __call__(self, frames: FrameArchive, t: int) -> tuple[RGB, np.ndarray]:
        """(H, W, 3) uint8 RGB background of frame t, and (H, W) bool, where it is known."""
        width, height = self.size
        if self.image is not None:
            behind, seen = self.image, np.ones((height, width), bool)
        else:
            behind, seen = self._median(frames, t)
        if self.params.tolerance and seen.any():
            image = cv2.resize(frames.image(t), self.size, interpolation=cv2.INTER_AREA)
            behind = nearest_color(image, behind, self.params.tolerance)
        return behind, seen

    def _median(self, frames: FrameArchive, t: int) -> tuple[RGB, np.ndarray]:
        """The median of the stabilized neighbors, and where at least two of them show the pixel."""
        width, height = self.size
        # With masks, what stands at another depth can be told from the subject, and fits as well.
        parallax = self.masks is not None
        found = views(self._sequence(frames), t, self.params.neighbors, self.params.spacing, parallax)
        behind = median_background(found)
        if behind is None:
            return np.zeros((height, width, 3), np.uint8), np.zeros((height, width), bool)
        image, valid = behind
        if self.masks is not None:
            shown = np.sum([view.background for view in found], axis=0) >= 2
            if self.params.kind == "auto":
                valid = valid & shown  # the inpainter fills what only the subject covered
            else:
                # Telea, "An Image Inpainting Technique Based on the Fast Marching Method", 2004
                image = cv2.inpaint(image, (~shown).astype(np.uint8), FILLING, cv2.INPAINT_TELEA)  # type: ignore[assignment]
        share = cv2.resize(valid.astype(np.float32), self.size, interpolation=cv2.INTER_AREA)
        return cv2.resize(image, self.size, interpolation=cv2.INTER_AREA), share > 0.99

    def _sequence(self, frames: FrameArchive) -> StabilizedSequence:
        """The stabilized sequence of an archive; the last `SEQUENCES` of them hold their neighbors' frames."""
        path = frames.path
        if path not in self._motions:
            self._motions[path] = load_homographies(self.homographies_dir / f"{path.stem}.npz")
        if path not in self._sequences:
            width, height = self.size
            factor = max(1, min(OVERSAMPLING, frames.size[0] // width, frames.size[1] // height))
            size = (factor * width, factor * height)
            capacity = max(1, FRAMES_BYTES // (3 * size[0] * size[1] * SEQUENCES))
            self._sequences[path] = StabilizedSequence(
                frames, self._motions[path], size, self._subject(frames, size), capacity, region=frames.region
            )
        self._sequences.move_to_end(path)
        if len(self._sequences) > SEQUENCES:
            self._sequences.popitem(last=False)
        return self._sequences[path]

    def _subject(self, frames: FrameArchive, size: tuple[int, int]) -> MaskOf | None:
        """The masks of a sequence at a size; None where none are given."""
        files = mask_files(self.params, [frames])
        return partial(_soft_mask, MaskArchive(files[0]), size) if files else None


def _soft_mask(archive: MaskArchive, size: tuple[int, int], t: int) -> np.ndarray:
    """Mask of frame t, (H, W) float32 in [0, 1], a little enlarged; empty where the frame has none."""
    width, height = size
    if not archive.has(t):
        return np.zeros((height, width), np.float32)
    small = cv2.resize(archive.gray(t), size, interpolation=cv2.INTER_AREA)
    side = 2 * max(1, height // ENLARGED) + 1
    large = cv2.dilate(small, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)))
    return large.astype(np.float32) / np.float32(255)


def mask_files(params: BackgroundParams, frames: Sequence[FrameArchive]) -> list[Path]:
    """The masks of these sequences in the folder `background.masks`; none where that is not set.

    Raises:
        BackdropError: there are none of a sequence.
    """
    if params.masks is None:
        return []
    names = [one.path.name for one in frames]
    for name in names:
        if not (Path(params.masks) / name).is_file():
            raise BackdropError(
                f"background.masks={params.masks} has no {name}; give the masks of a run with that sequence"
            )
    return [Path(params.masks) / name for name in names]
