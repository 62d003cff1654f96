"""What the sections of `params.yaml` are made of: types of values, and the base of every section's model."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0, le=1)]

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]

Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]

Count = Annotated[int, Field(ge=1)]

CountOrZero = Annotated[int, Field(ge=0)]

Size = tuple[Annotated[int, Field(ge=16, le=16384)], Annotated[int, Field(ge=16, le=16384)]]


class Section(BaseModel):
    """A section of `params.yaml`: every key required, no other key allowed."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


def Key(name: str) -> Any:  # noqa: N802 - a field of a model, as pydantic's own Field
    """A field of a `StageParams` that holds one key of a section ("data.layout"), or `lambda`, a word of Python."""
    return Field(alias=name)


class StageParams(BaseModel):
    """What a stage reads of `params.yaml`, and nothing else: a field for each section, or for each `Key`.

    A test holds `params:` in dvc.yaml equal to `keys`, so that a stage cannot read what DVC does not watch.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    @classmethod
    def keys(cls) -> list[str]:
        """The keys of `params.yaml` that the stage reads, such as "crf" and "data.layout"."""
        return [field.alias or name for name, field in cls.model_fields.items()]
