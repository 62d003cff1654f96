"""The section `flow` of the parameters."""

from __future__ import annotations

from pydantic import Field, model_validator

from backdrop.config.sections import Section, StageParams
from backdrop.run.compute import ComputeParams


class FlowParams(Section):
    """The section `flow`."""

    model: str = Field(min_length=1)
    checkpoint: str | None

    @model_validator(mode="after")
    def _needs_checkpoint(self) -> FlowParams:
        from backdrop.flow.models import MODELS  # imported late: reading parameters needs no OpenCV

        if self.model not in MODELS and self.checkpoint is None:
            raise ValueError(
                f"flow.model {self.model} needs flow.checkpoint: a name ptlflow publishes "
                "(things for flownet2) or a local file; flow.model=dis needs none"
            )
        return self


class FlowStage(StageParams):
    """What the stage flow reads."""

    flow: FlowParams
    compute: ComputeParams
