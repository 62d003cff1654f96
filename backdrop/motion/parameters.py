"""The section `stabilize` of the parameters."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from backdrop.config.sections import Count, Positive, Section


class StabilizeParams(Section):
    """The section `stabilize`."""

    features: Annotated[int, Field(ge=16)]
    ratio: Annotated[float, Field(gt=0, lt=1)]
    threshold: Positive
    min_inliers: Annotated[int, Field(ge=4)]
    max_scale: Annotated[float, Field(gt=1)]
    gap: Count
