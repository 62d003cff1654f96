"""The whole of `params.yaml`: the sections together, read, checked and composed from `conf/`.

Each section's model lives in the package that reads it (`parameters.py` there). Nothing has a default value: `conf/`
is the only owner of the values, and a key that is missing, unknown or out of range is an error. All problems are
raised at once.

`python -m backdrop.params [OVERRIDE...]` composes params.yaml from conf/, as `dvc exp run -S OVERRIDE` does.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, Field, ValidationError, model_validator

from backdrop.config.reading import load_yaml
from backdrop.config.sections import CountOrZero, Section, StageParams
from backdrop.crf.parameters import CRFParams
from backdrop.errors import BackdropError
from backdrop.flow.parameters import FlowParams
from backdrop.frames.parameters import DataParams
from backdrop.inpaint.parameters import InpainterParams
from backdrop.io.files import atomic_path
from backdrop.motion.parameters import StabilizeParams
from backdrop.networks.parameters import DetectorParams, EncoderParams, SynthesisParams
from backdrop.render.parameters import FootageParams
from backdrop.run.compute import ComputeParams
from backdrop.score.parameters import Preset
from backdrop.segment.parameters import SegmentParams
from backdrop.student.parameters import StudentParams
from backdrop.train.parameters import BackgroundParams, LossParams, SamplingParams, TrainParams

Stage = TypeVar("Stage", bound=StageParams)


class Params(Section):
    """The whole of `params.yaml`."""

    seed: CountOrZero
    preset: Preset
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
        if self.loss.p_learns == "reconstruction" and self.train.detector_iterations:
            problems.append("loss.p_learns=reconstruction needs train.detector_iterations=0: S is not run there")
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
                lines.append(f"  {key}: missing; `python -m backdrop.params` composes a whole params.yaml from conf/")
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
        raise BackdropError(
            f"{path} does not exist: run in the project's folder, or `python -m backdrop.params` first"
        ) from None
    if not isinstance(values, dict):
        raise BackdropError(
            f"{path} must hold a mapping of sections; `python -m backdrop.params` composes one from conf/"
        )
    return validate(values, str(path))


def load_params(kind: type[Stage], path: str | Path = "params.yaml") -> Stage:
    """What a stage reads: the keys that `kind` names and no others. The whole file is checked.

    Raises:
        BackdropError: see `read`.
    """
    return read(path).of_stage(kind)


def compose_params(overrides: list[str], path: Path = Path("params.yaml"), conf: Path = Path("conf")) -> None:
    """Compose `path` from `conf` with Hydra, by the very function that `dvc exp run` calls, and check it.

    Raises:
        BackdropError: an override or a file of `conf` is wrong; one line names the key. `path` is as before.
    """
    from dvc.utils.hydra import compose_and_dump
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    if not (conf / "config.yaml").is_file():
        raise BackdropError(f"{conf / 'config.yaml'} does not exist: run in the folder of a project, or of the clone")
    for file in sorted(conf.rglob("*.yaml")):  # Hydra would write aliases out, however many
        load_yaml(file)
    given = [_as_meant(override) for override in overrides]
    with atomic_path(path) as temporary:
        try:
            compose_and_dump(temporary, str(conf.resolve()), None, "config", str(conf.resolve() / "plugins"), given)
        except (HydraException, OmegaConfBaseException, ValueError) as fault:
            raise BackdropError(_composition_fault(fault, overrides, conf)) from None
        validate(load_yaml(temporary), str(path))


def _composition_fault(fault: Exception, overrides: list[str], conf: Path) -> str:
    """What Hydra does not take, in one line."""
    text = str(fault)
    groups = {folder.name: sorted(file.stem for file in folder.glob("*.yaml")) for folder in conf.iterdir()}
    key = re.search(r"Could not override '([^']*)'", text)
    if key:
        close = get_close_matches(key[1], [*_keys(Params), *groups], 1)
        return f"{key[1]}: unknown key; " + (f"did you mean {close[0]}?" if close else "see docs/parameters.md")
    for given in overrides:
        name, _, value = given.partition("=")
        if groups.get(name) and value not in groups[name]:
            return f"{given}: {name} is one of {', '.join(groups[name])}"
    if type(fault).__name__ == "OverrideParseException":
        wrong = next((one for one in overrides if _as_meant(one) == getattr(fault, "override", None)), text)
        return f"{wrong!r} is no KEY=VALUE"
    for given in overrides:
        if "${" in given and ("nterpolation" in text or given.partition("=")[0] in text):
            return f"{given}: ${{...}} stands for another key; give a link to a folder of such a name"
    return f"{conf} cannot be composed: {' '.join(text.split())}"


def _keys(section: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """The dotted keys of `params.yaml`, sections among them."""
    for name, field in section.model_fields.items():
        key = f"{prefix}{field.alias or name}"
        yield key
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _keys(field.annotation, f"{key}.")


def _as_meant(override: str) -> str:
    """An override with its value in Hydra's quotes, if Hydra would not read it as one value: "root=~/run (1)"."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    key, given, value = override.partition("=")
    try:
        whole = value == value.strip()  # Hydra would take blanks around it away
        if not given or (whole and not OverridesParser.create().parse_override(override).is_sweep_override()):
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
