"""The section `crf` of the parameters, also that of `student`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from backdrop.config.sections import Count, Positive, Section, Weight


class CRFParams(Section):
    """The section `crf`."""

    enabled: bool
    unary: Literal["thresholded", "soft"]
    confidence: Annotated[float, Field(gt=0.5, lt=1)]
    iterations: Count
    reference_diagonal: Positive | None
    gaussian_sxy: Positive
    gaussian_compat: Weight
    bilateral_sxy: Positive
    bilateral_srgb: Positive
    bilateral_compat: Weight
