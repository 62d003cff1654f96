"""The section `compute` of the parameters."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from backdrop.config.sections import Count, CountOrZero, Section


class ComputeParams(Section):
    """The section `compute`."""

    device: str = Field(pattern="^(auto|cpu|cuda(:\\d+)?)$")
    precision: Literal["auto", "32", "bf16"]
    compile: bool
    devices: Count
    nodes: Count
    workers: CountOrZero
    backend: Literal["loky", "dask", "ray"]
    address: str | None

    @model_validator(mode="after")
    def _loky_is_here(self) -> ComputeParams:
        if self.backend == "loky" and self.address is not None:
            raise ValueError(
                f"compute.backend=loky has no compute.address (given: {self.address!r}): "
                "set compute.backend to dask or ray, or compute.address to null"
            )
        return self
