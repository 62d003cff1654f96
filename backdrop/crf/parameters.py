"""The section `crf` of the parameters, also that of `student`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from backdrop.config.sections import Count, Positive, Section, Weight

LEAST_REACH = 0.01
"""Of a kernel, in pixels or gray levels. pydensecrf divides positions by the reach in 32 bits, and crashes on 0."""


def _not_too_small(value: float) -> float:
    if value < LEAST_REACH:
        raise ValueError(f"must be at least {LEAST_REACH}: the CRF crashes on less")
    return value


Reach = Annotated[Positive, AfterValidator(_not_too_small)]


class CRFParams(Section):
    """The section `crf`."""

    enabled: bool
    unary: Literal["thresholded", "soft"]
    confidence: Annotated[float, Field(gt=0.5, lt=1)]
    iterations: Count
    reference_diagonal: Positive | None
    gaussian_sxy: Reach
    gaussian_compat: Weight
    bilateral_sxy: Reach
    bilateral_srgb: Reach
    bilateral_compat: Weight
