"""What the stage refine reads of the parameters."""

from __future__ import annotations

from backdrop.config.sections import StageParams
from backdrop.crf.parameters import CRFParams
from backdrop.run.compute import ComputeParams


class RefineStage(StageParams):
    """What the stage refine reads."""

    crf: CRFParams
    compute: ComputeParams
