"""The whole of `params.yaml`: the sections together, read, checked and composed from `conf/`.

Each section's model lives in the package that reads it (`parameters.py` there). Nothing has a default value: `conf/`
is the only owner of the values, and a key that is missing, unknown or out of range is an error. All problems are
raised at once.

`python -m backdrop.params [OVERRIDE...]` composes params.yaml from conf/, as `dvc exp run -S OVERRIDE` does.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import Field, ValidationError, model_validator

from backdrop.config.reading import load_yaml
from backdrop.config.sections import CountOrZero, Section, StageParams
from backdrop.crf.parameters import CRFParams
from backdrop.errors import BackdropError
from backdrop.flow.parameters import FlowParams
from backdrop.frames.parameters import DataParams
from backdrop.inpaint.parameters import InpainterParams
from backdrop.motion.parameters import StabilizeParams
from backdrop.networks.parameters import DetectorParams, EncoderParams, SynthesisParams
from backdrop.render.parameters import FootageParams
from backdrop.run.compute import ComputeParams
from backdrop.segment.parameters import SegmentParams
from backdrop.student.parameters import StudentParams
from backdrop.train.parameters import BackgroundParams, LossParams, SamplingParams, TrainParams

Stage = TypeVar("Stage", bound=StageParams)


class Params(Section):
    """The whole of `params.yaml`."""

    seed: CountOrZero
    lambda_: Annotated[float, Field(gt=0, lt=1)] = Field(alias="lambda")
    data: DataParams
    footage: FootageParams
    stabilize: StabilizeParams
    flow: FlowParams
    encoder: EncoderParams
    inpainter: InpainterParams
    detector: DetectorParams
    synthesis: SynthesisParams
    sampling: SamplingParams
    loss: LossParams
    background: BackgroundParams
    train: TrainParams
    student: StudentParams
    segment: SegmentParams
    crf: CRFParams
    compute: ComputeParams

    @model_validator(mode="after")
    def _consistent(self) -> Params:
        problems = []
        stages = {32: 2, 64: 3, 128: 4, 256: 5}[self.synthesis.crop]
        if len(self.synthesis.decoder) < stages:
            problems.append(
                f"synthesis.decoder needs at least {stages} stages for crops of {self.synthesis.crop} pixels"
            )
        if self.data.protocol == "self" and (self.data.val or self.data.test):
            problems.append("data.val and data.test belong to data.protocol=held_out")
        if self.data.layout == "synthetic" and self.data.protocol == "held_out" and not self.footage.test:
            problems.append("footage.test must be at least 1 with data.layout=synthetic and data.protocol=held_out")
        if not 0 < self.inpainter.hole[0] <= self.inpainter.hole[1]:
            problems.append("inpainter.hole must be [min, max] with 0 < min <= max")
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def of_stage(self, kind: type[Stage]) -> Stage:
        """What a stage gets of it: the keys that `kind` names and no others."""
        values = self.model_dump(mode="json", by_alias=True)
        return kind.model_validate({key: reduce(getitem, key.split("."), values) for key in kind.keys()})  # noqa: SIM118


def validate(values: Mapping[Any, Any], source: str = "params.yaml") -> Params:
    """Check a whole parameter tree.

    Raises:
        BackdropError: one message with a line for every unknown key, bad value and bad combination.
    """
    try:
        return Params.model_validate(values)
    except ValidationError as error:
        lines = []
        for problem in error.errors():
            key = ".".join(str(part) for part in problem["loc"]) or "(combination)"
            if problem["type"] == "extra_forbidden":
                lines.append(f"  {key}: unknown key; remove it or correct its spelling")
            elif problem["type"] == "missing":
                lines.append(f"  {key}: missing; `make params` composes a whole params.yaml from conf/")
            else:
                message = problem["msg"].removeprefix("Value error, ")
                lines.append(
                    f"  {key}: {message} (given: {problem['input']!r})"
                    if key[0] != "(" and not isinstance(problem["input"], dict)
                    else f"  {key}: {message}"
                )
        raise BackdropError(f"{source} has {len(lines)} problem(s):\n" + "\n".join(lines)) from None


def read(path: str | Path) -> Params:
    """Read and check a parameter file.

    Raises:
        BackdropError: the file is missing, is no YAML, or holds a problem (all are named).
    """
    path = Path(path)
    try:
        values = load_yaml(path)
    except FileNotFoundError:
        raise BackdropError(f"{path} does not exist: run from the repository's root, or `make params` first") from None
    if not isinstance(values, dict):
        raise BackdropError(f"{path} must hold a mapping of sections; `make params` composes one from conf/")
    return validate(values, str(path))


def load_params(kind: type[Stage], path: str | Path = "params.yaml") -> Stage:
    """What a stage reads: the keys that `kind` names and no others. The whole file is checked.

    Raises:
        BackdropError: see `read`.
    """
    return read(path).of_stage(kind)


def compose_params(overrides: list[str], path: Path = Path("params.yaml"), conf: Path = Path("conf")) -> None:
    """Compose `path` from `conf` with Hydra, by the very function that `dvc exp run` calls, and check it."""
    from dvc.utils.hydra import compose_and_dump

    for file in sorted(conf.rglob("*.yaml")):  # Hydra would write aliases out, however many
        load_yaml(file)
    given = [_as_meant(override) for override in overrides]
    compose_and_dump(path, str(conf.resolve()), None, "config", str(conf.resolve() / "plugins"), given)
    read(path)


def _as_meant(override: str) -> str:
    """An override with its value in Hydra's quotes, if Hydra would not read it as one value: "root=~/run (1)"."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    key, given, value = override.partition("=")
    try:
        if not given or not OverridesParser.create().parse_override(override).is_sweep_override():
            return override
    except Exception:  # ANTLR's own among them
        pass
    escaped = re.sub(r"(\\*)('|$)", lambda match: match[1] * 2 + ("\\'" if match[2] else ""), value)
    return f"{key}='{escaped}'"


if __name__ == "__main__":
    import sys

    try:
        compose_params(sys.argv[1:])
    except BackdropError as problem:
        sys.exit(f"error: {problem}")
