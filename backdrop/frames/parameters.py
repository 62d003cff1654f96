"""The section `data` of the parameters."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from backdrop.config.sections import Count, Section, Size, StageParams
from backdrop.errors import BackdropError
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


SMALLEST_BUDGET = 100
"""Frames: with less there is nothing to learn from."""

EXPERIMENTS = (".dvc", "tmp", "exps")
"""The folder, in a project, in which DVC makes checkouts for experiments."""


class DataParams(Section):
    """The section `data`."""

    layout: Literal[LAYOUT_NAMES]  # type: ignore[valid-type]
    root: str = Field(min_length=1)
    path: str
    labels: str = Field(min_length=1)
    roi: Annotated[str, Field(min_length=1)] | None
    roi_path: str = Field(min_length=1)
    size: Size | None
    every: Count
    limit: Annotated[int, Field(ge=2)] | None
    budget: Annotated[int, Field(ge=0)]
    protocol: Literal["self", "held_out"]
    val: list[str]
    test: list[str]
    only: list[str]
    strict: bool
    quality: Annotated[int, Field(ge=1, le=100)]

    @field_validator("budget")
    @classmethod
    def _enough(cls, budget: int) -> int:
        if 0 < budget < SMALLEST_BUDGET:
            raise ValueError(f"too few frames to train on; give at least {SMALLEST_BUDGET}, or 0 for all")
        return budget

    @model_validator(mode="after")
    def _path_of_root(self) -> DataParams:
        leads_out = ".." in Path(self.root).parts and Path(self.path).is_absolute()
        if not leads_out and self.path != os.path.expanduser(self.root):
            raise ValueError(
                f"data.path is {self.path}, which is not where data.root={self.root} lies: it is composed from "
                "data.root; run `python -m backdrop.params` or `dvc exp run`, or change both"
            )
        if self.labels.startswith("~") and self.labels != self.path:
            raise ValueError(f"data.labels is {self.labels}: write the path out, as DVC, which watches it, knows no ~")
        return self

    @model_validator(mode="after")
    def _path_of_roi(self) -> DataParams:
        if self.roi is None:
            return self
        leads_out = ".." in Path(self.roi).parts and Path(self.roi_path).is_absolute()
        if not leads_out and self.roi_path != os.path.expanduser(self.roi):
            raise ValueError(
                f"data.roi_path is {self.roi_path}, which is not where data.roi={self.roi} lies: it is composed from "
                "data.roi; run `python -m backdrop.params` or `dvc exp run`, or change both"
            )
        return self

    def place(self, project: Path) -> str:
        """Where the footage lies, as `data.path` says it.

        Args:
            project: the project's folder; DVC's checkouts for experiments in it count as the project itself.

        Raises:
            BackdropError: `data.path` is absolute, and not where a relative `data.root` leads from the project.
        """
        if Path(self.root).is_absolute() or not Path(self.path).is_absolute() or self.root.startswith("~"):
            return self.path
        home = next((one.parents[2] for one in project.parents if one.parts[-3:] == EXPERIMENTS), project)
        if Path(os.path.realpath(home / self.root)) != Path(os.path.realpath(self.path)):
            raise BackdropError(
                f"data.path is {self.path}, but data.root={self.root} leads to {os.path.realpath(home / self.root)} "
                "from here: the project was moved; run `python -m backdrop.params` with the overrides of the last run "
                "(such as data=videos), or give data.path the value of data.root in params.yaml"
            )
        return self.path


class FramesStage(StageParams):
    """What the stage frames reads."""

    data: DataParams
    compute: ComputeParams
