"""What the commands share: how they end, what they say of bad input, and where results can go."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from backdrop.errors import UNWRITABLE, BackdropError
from backdrop.io.files import show

if TYPE_CHECKING:  # see cli
    from backdrop.app.exports.common import Recorded
    from backdrop.app.segmenter import Segmenter
    from backdrop.crf.parameters import CRFParams


class Format(StrEnum):
    """What can be written: `pictures.PICTURES` and `exports.FORMATS`. Named here, as these take long to import."""

    masks = "masks"
    overlay = "overlay"
    npz = "npz"
    video = "video"
    coco = "coco"
    davis = "davis"
    yolo = "yolo"
    labelstudio = "labelstudio"
    csv = "csv"
    cutout = "cutout"
    alpha = "alpha"
    background = "background"
    cvat = "cvat"
    labelstudio_video = "labelstudio-video"


MinArea = Annotated[
    int | None,
    typer.Option(help="Drop parts of a mask below so many pixels; by default below 0.01 % of the frame.", min=0),
]

WithImages = Annotated[
    bool, typer.Option("--images", help="coco, yolo, labelstudio: write the frames beside the labels.")
]

SplitChoice = Annotated[bool, typer.Option("--split", help="coco: one annotation per connected part, as CVAT wants.")]

UrlPrefix = Annotated[str, typer.Option(help="labelstudio, labelstudio-video: what stands before a file's name.")]

BackgroundChoice = Annotated[str, typer.Option(help="background: a color, or an image.")]

WebM = Annotated[bool, typer.Option("--webm", help="alpha: VP9 (.webm) instead of ProRes 4444 (.mov).")]


class Commands(TyperGroup):
    """The commands. At Ctrl-C Typer ends without a word, and a path that the system refuses would be a traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            print("stopped; run the same command again to go on", file=sys.stderr)
            raise typer.Exit(130) from None
        except OSError as fault:
            if fault.filename is None or fault.errno in UNWRITABLE:  # `main` has words for the latter
                raise
            name = os.fsdecode(fault.filename)
            raise BackdropError(
                f"{show(name)[:200]}: {fault.strerror}; name another place, or mend this one"
            ) from fault


def check_out(out: Path, folder: bool = True, inputs: Sequence[str] = ()) -> None:
    """Whether -o can be a folder for results, or (`folder` false) a file; before anything is computed.

    Args:
        inputs: what is read. Results do not lie among it. A folder of earlier results is taken, since a shell that
            writes * out names it, too; `find_sources` passes it over.

    Raises:
        BackdropError: it cannot.
    """
    from backdrop.app.sources import holds_results

    if folder and os.path.exists(out) and not out.is_dir():
        raise BackdropError(f"-o {out} is a file; name a folder")
    if not folder and out.is_dir():
        raise BackdropError(f"-o {out} is a folder; name a file")
    given = any(os.path.isdir(one) and os.path.realpath(out) == os.path.realpath(one) for one in inputs)
    if given and any(not name.startswith(".") for name in os.listdir(out)) and not holds_results(out):
        raise BackdropError(f"-o {out} is the input folder, and results would lie among the footage; name another one")
    above = next((parent for parent in out.parents if os.path.exists(parent)), None)
    if above is not None and not above.is_dir():
        raise BackdropError(f"-o {out} would lie in {above}, which is a file; name another place")


def say_nothing(_: str) -> None:
    """Takes what --quiet keeps from being said."""


def name_faults(faults: Sequence[BackdropError]) -> None:
    """Print a line for each."""
    for fault in faults:
        print(f"error: {fault}", file=sys.stderr)


def warn_of_damage(found: Sequence[Recorded]) -> bool:
    """Print a line for each source that could not be read to its end. Returns whether there is one."""
    damaged = [(source, records.ending.damage) for source, records in found if records.ending.damage]
    for source, damage in damaged:
        print(f"warning: {show(source.path)} (damaged): {damage}", file=sys.stderr)
    return bool(damaged)


def crf_of(params: Path) -> CRFParams:
    """The CRF's parameters in a file of parameters.

    Raises:
        BackdropError: it is not there, or is none.
    """
    from backdrop.params import read

    if not params.is_file():
        raise BackdropError(
            f"{params} is not here, and the CRF's parameters stand there: give --params FILE, or --refine none"
        )
    return read(params).crf


def threshold_of(segmenter: Segmenter, model: Path, refined: bool) -> float:
    """The threshold that the project chose in which the model lies. Else the student's, else 0.5.

    Args:
        refined: for masks after the CRF, not before it.
    """
    from backdrop.io.masks import THRESHOLD, read_threshold

    chosen = model.resolve().parent.parent / "data" / ("masks" if refined else "predictions")
    if (chosen / THRESHOLD).is_file():
        return read_threshold(chosen)[0]
    learned = None if segmenter.student is None else segmenter.student.threshold
    return 0.5 if learned is None else learned
