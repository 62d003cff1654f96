"""Known backgrounds: Algorithm 1's exists(B), for cameras that stand still and for cameras that move."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import cv2
import numpy as np

from backdrop.errors import BackdropError
from backdrop.io.frame_archive import FrameArchive
from backdrop.io.images import RGB, decode_image
from backdrop.motion.homography import Homographies, load_homographies
from backdrop.motion.neighbors import StabilizedSequence, median_background, views
from backdrop.train.parameters import BackgroundParams

OVERSAMPLING = 2
"""A median is taken at up to this many times the training resolution. Laying frames over one another blurs by about a
pixel: at the training resolution fine textures would differ by that much."""


SEQUENCES = 8
"""Sequences whose reduced frames are held at a time: the frames of a batch come from several."""

FRAMES_BYTES = 256 * 2**20
"""Memory for these frames, of all sequences together, in each process that loads frames."""


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
    two of them show the pixel; where a subject rests on a pixel longer than the neighbors reach, it is in the median.
    With `tolerance`, the color within so many pixels that is nearest to the frame's.

    Args:
        size: (W, H) of the training resolution.

    Raises:
        BackdropError: `background.file` is no image.
    """

    def __init__(self, params: BackgroundParams, homographies_dir: Path, size: tuple[int, int]) -> None:
        self.params, self.homographies_dir, self.size = params, homographies_dir, size
        self._motions: dict[Path, Homographies] = {}
        self._sequences: OrderedDict[Path, StabilizedSequence] = OrderedDict()
        self.image: RGB | None = None
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
        found = views(self._sequence(frames), t, self.params.neighbors, self.params.spacing, parallax=False)
        behind = median_background(found)
        if behind is None:
            return np.zeros((height, width, 3), np.uint8), np.zeros((height, width), bool)
        share = cv2.resize(behind.valid.astype(np.float32), self.size, interpolation=cv2.INTER_AREA)
        return cv2.resize(behind.image, self.size, interpolation=cv2.INTER_AREA), share > 0.99

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
                frames, self._motions[path], size, capacity=capacity, region=frames.region
            )
        self._sequences.move_to_end(path)
        if len(self._sequences) > SEQUENCES:
            self._sequences.popitem(last=False)
        return self._sequences[path]
