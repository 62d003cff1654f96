"""The section `data` of the parameters."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from backdrop.config.sections import Count, Section, Size, StageParams
from backdrop.run.compute import ComputeParams

LAYOUT_NAMES = (
    "synthetic",
    "videos",
    "davis",
    "ski_ptz",
    "handheld190k",
    "fs_singles",
    "h36m",
    "cdnet",
    "bms",
)


class DataParams(Section):
    """The section `data`."""

    layout: Literal[LAYOUT_NAMES]  # type: ignore[valid-type]
    root: str = Field(min_length=1)
    path: str
    size: Size | None
    every: Count
    limit: Annotated[int, Field(ge=2)] | None
    protocol: Literal["self", "held_out"]
    val: list[str]
    test: list[str]
    only: list[str]
    strict: bool
    quality: Annotated[int, Field(ge=1, le=100)]

    @model_validator(mode="after")
    def _path_of_root(self) -> DataParams:
        leads_out = ".." in Path(self.root).parts
        if not (Path(self.path).is_absolute() if leads_out else self.path == self.root):
            raise ValueError(
                f"data.path is {self.path}, which is not where data.root={self.root} lies: it is composed from "
                "data.root; run `make params` or `dvc exp run`, or change both"
            )
        return self


class FramesStage(StageParams):
    """What the stage frames reads."""

    data: DataParams
    compute: ComputeParams
