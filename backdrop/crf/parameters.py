"""The section `crf` of the parameters, also that of `student`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from backdrop.config.sections import Count, Positive, Section, Weight

LEAST_REACH = 0.01
"""Of a kernel, in pixels or gray levels. pydensecrf divides positions by the reach in 32 bits, and crashes on 0."""

OLDER_CRF: dict[str, Any] = {
    "kind": "dense",
    "unary_weight": 1.0,
    "superpixel_side": 10,
    "superpixel_background": 0.0,
    "superpixel_foreground": 0.0,
    "detection": 0.0,
}
"""What parameters mean that were written before these keys were there."""


def _not_too_small(value: float) -> float:
    if value < LEAST_REACH:
        raise ValueError(f"must be at least {LEAST_REACH}: the CRF crashes on less")
    return value


Reach = Annotated[Positive, AfterValidator(_not_too_small)]


class CRFParams(Section):
    """The section `crf`."""

    enabled: bool | Literal["auto"]
    kind: Literal["dense", "higher_order"]
    unary: Literal["thresholded", "soft"]
    confidence: Annotated[float, Field(gt=0.5, lt=1)]
    iterations: Count
    reference_diagonal: Positive | None
    gaussian_sxy: Reach
    gaussian_compat: Weight
    bilateral_sxy: Reach
    bilateral_srgb: Reach
    bilateral_compat: Weight
    unary_weight: Weight
    superpixel_side: Annotated[int, Field(ge=2)]
    superpixel_background: Weight
    superpixel_foreground: Weight
    detection: Weight
