"""Known backgrounds: Algorithm 1's exists(B), for cameras that stand still and for cameras that move."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from backdrop.cues import Footage, median_background, views
from backdrop.errors import BackdropError
from backdrop.homography import load_homographies
from backdrop.params import BackgroundParams
from backdrop.video import RGB, FrameArchive, decode_image


class Backgrounds:
    """The background of a frame at training resolution and where it is known.

    `known`: one image for all frames. `median`, `auto`: the median of the stabilized neighbors, known where at least
    two of them show the pixel; where a subject rests on a pixel longer than the neighbors reach, it is in the median.

    Args:
        size: (W, H) of the training resolution.

    Raises:
        BackdropError: `background.file` is no image.
    """

    def __init__(self, params: BackgroundParams, homographies_dir: Path, size: tuple[int, int]) -> None:
        self.params, self.homographies_dir, self.size = params, homographies_dir, size
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
            return self.image, np.ones((height, width), bool)
        motion = load_homographies(self.homographies_dir / f"{Path(frames.path).stem}.npz")
        footage = Footage(frames, motion, self.size, capacity=1)
        found = views(footage, t, self.params.neighbors, self.params.spacing, parallax=False)
        if len(found) < 2:
            return np.zeros((height, width, 3), np.uint8), np.zeros((height, width), bool)
        return median_background(found)
