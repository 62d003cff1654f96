"""Parameters of the recipe for the motion network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from backdrop.config.reading import load_yaml
from backdrop.config.sections import Count, CountOrZero, Positive, Section, StageParams
from backdrop.errors import BackdropError
from backdrop.run.compute import ComputeParams


class CollageParams(Section):
    """The file `recipes/motion/params.yaml`.

    Attributes:
        samples: rendered frames to learn from; held: further ones, to watch by.
        iterations, batch, rate: of training.
        seed: of samples and training.
    """

    samples: Count
    held: Annotated[int, Field(ge=1)]
    iterations: Count
    batch: Count
    rate: Positive
    seed: CountOrZero


class CollageStage(StageParams):
    """What the recipe reads."""

    collage: CollageParams
    compute: ComputeParams


def read_recipe(path: Path) -> CollageStage:
    """The recipe's parameters.

    Raises:
        BackdropError: names what is wrong, all of it.
    """
    try:
        return CollageStage.model_validate(load_yaml(path))
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
        raise BackdropError(f"{path}: {problems}") from None
