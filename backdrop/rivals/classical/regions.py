"""Rivals fast_motion and nlc. The student has them as cues (`backdrop.motion.regions`); here each is alone.

Simplified, as their files say: for fast motion segmentation one round with color histograms of the whole sequence; for
non-local consensus voting first votes from speed alone, and no saliency.
"""

from __future__ import annotations

from collections.abc import Iterator

from backdrop.io.masks import Soft
from backdrop.motion.regions.fast_motion import fast_motion_masks
from backdrop.motion.regions.nlc import nlc_masks
from backdrop.rivals.material import Material


def fast_motion(material: Material) -> Iterator[Soft]:
    """Soft masks: the cut's mask, its staircase blurred."""
    return fast_motion_masks(material.stretch)


def nlc(material: Material) -> Iterator[Soft]:
    """Soft masks: the superpixels' votes after the last round, in shares of the frames' largest."""
    return nlc_masks(material.stretch)
