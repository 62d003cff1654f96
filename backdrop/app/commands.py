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
    from backdrop.app.predict import Job
    from backdrop.app.segmenter import Segmenter
    from backdrop.app.sources import Source
    from backdrop.frames.regions import RegionImages

SOME_FAILED = 3
"""Exit status when some inputs could not be read, or not to their end, and the others were taken.

1: an error, 2: a wrong command.
"""

MOST_NAMED = 5
"""Files with doubtful masks, and stretches of frames of each, that are named, at most."""


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


SteadyChoice = Annotated[
    bool, typer.Option("--steady", help="cvat, labelstudio-video, csv: steady a video's boxes and numbers.")
]


class Refinement(StrEnum):
    """What makes a mask out of a soft mask: the CRF, or the threshold alone; auto: what the model's project decided."""

    auto = "auto"
    crf = "crf"
    none = "none"


Inputs = Annotated[
    list[str],
    typer.Argument(
        help="Images, videos, folders of them, or patterns in quotes; or one of: a camera's number, an address, -."
    ),
]

ModelFolder = Annotated[Path, typer.Option(help="Model folder.")]

Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]

Formats = Annotated[
    list[Format] | None, typer.Option("--format", "-f", help="May be given several times; masks by default.")
]

CRFChoice = Annotated[
    Refinement,
    typer.Option("--refine", help="Dense CRF, or the threshold alone; auto: the CRF, unless its project left it out."),
]

Threshold = Annotated[
    float | None,
    typer.Option(help="Foreground is above it; by default the project's, else the student's.", min=0, max=1),
]

ParamsFile = Annotated[Path | None, typer.Option(help="Where the CRF's parameters stand; by default the model's own.")]

Confidence = Annotated[
    float, typer.Option(help="Frames whose mask is nowhere surer than this get an empty one.", min=0, max=1)
]

Instances = Annotated[
    int | None,
    typer.Option(help="Up to so many subjects, each with its number; by default one mask.", min=1, max=64),
]


RoiChoice = Annotated[
    Path | None,
    typer.Option("--roi", help="Region of interest, white on black: an image, or a folder with <input>.png for each."),
]


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


def read_regions(roi: Path | None) -> RegionImages | None:
    """The regions of interest of --roi, if it is given.

    Raises:
        BackdropError: see `RegionImages`.
    """
    from backdrop.frames.regions import RegionImages

    return None if roi is None else RegionImages(roi, "--roi")


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


def check_model(model: Path) -> None:
    """Whether --model is there at all; what is wrong with one that is, its reader says.

    Raises:
        BackdropError: it is not.
    """
    if not model.is_dir():
        raise BackdropError(
            f"there is no model folder {show(model)}: in a project, `backdrop train` makes models/segmenter; "
            "--model names another one"
        )


def check_trained(project: Path, file: str = "metrics/scores.json") -> None:
    """Whether a project's pipeline has run as far as to this file.

    Raises:
        BackdropError: not yet, or this is no project.
    """
    if not (project / file).is_file():
        where = "here" if project == Path() else f"in {show(project)}"
        raise BackdropError(
            f"nothing was trained {where} yet (there is no {file}): run `backdrop train` in a project's "
            "folder, or name the project"
        )


def load_model(model: Path, device: str, sources: Sequence[Source] | None) -> Segmenter:
    """The segmenter of a model folder. What it was trained on is told (`tell_model`), unless `sources` is None."""
    from backdrop.app.segmenter import Segmenter

    check_model(model)
    segmenter = Segmenter.load(model, device)
    if sources is not None:
        tell_model(model, sources)
    return segmenter


def tell_model(model: Path, sources: Sequence[Source]) -> None:
    """Print what a model was trained on, where that is known. A warning, where that is the embedded footage alone.

    It is no warning for the embedded footage itself, `data/footage` of the model's project.
    """
    from backdrop.app.project.models import note_of, project_of

    note = note_of(model)
    if note is None:
        return
    own = project_of(model) / "data" / "footage"
    if note.rendered and any(not source.path.resolve().is_relative_to(own) for source in sources):
        print(
            f"warning: {show(model)} was {note.words()}: expect poor masks of real footage, and train on your own with "
            "`backdrop new FOLDER --videos PATH`",
            file=sys.stderr,
        )
    else:
        print(f"{show(model)} was {note.words()}", file=sys.stderr)


def predict_files(job: Job, sources: Sequence[Source], chosen: Sequence[str], quiet: bool) -> int:
    """Segment files, write the formats, say how it went, and return the exit status.

    Args:
        chosen: formats. quiet: errors only.

    Raises:
        WriteError: the disk takes no more. What was written stays.
    """
    from backdrop.app.exports import FORMATS, export_all
    from backdrop.app.exports.common import recorded
    from backdrop.app.predict import alone_in, predict_all

    out = job.out
    with alone_in(out):
        faults = predict_all(job, sources, quiet)
        name_faults([fault for _, fault in faults])
        if len(faults) == len(sources):
            return 1
        ready = recorded(out, {source.name for source in sources if source not in dict(faults)})
        damaged = warn_of_damage(ready)
        written, left_out = export_all(ready, out, [name for name in chosen if name in FORMATS])
        name_faults(left_out)
    if not (job.pictures or any(written.values())):
        return 1
    if not quiet:
        say_results(ready, f"in {out} (threshold {job.settings.threshold:g}): {', '.join(chosen)}")
    return SOME_FAILED if faults or left_out or damaged else 0


def say_results(found: Sequence[Recorded], where: str) -> None:
    """Print how many frames were segmented, and which of them to look at. where: the end of the first line."""
    typer.echo(f"{sum(len(records.frames) for _, records in found)} frames of {len(found)} files {where}")
    for line in name_doubtful(found):
        typer.echo(line)


def name_doubtful(found: Sequence[Recorded]) -> list[str]:
    """Lines that name the frames whose masks are doubtful, the worst files first; none where no mask is."""
    from backdrop.app.exports.common import doubts_of
    from backdrop.doubts import MEANING

    bad, total = [], 0
    for source, records in found:
        total += len(records.frames)
        doubtful = [(r.frame, why) for r, why in zip(records.frames, doubts_of(records), strict=True) if why]
        if doubtful:
            bad.append((source, int(records.header["every"]), doubtful))
    if not bad:
        return []
    bad.sort(key=lambda one: -len(one[2]))
    lines = [f"{sum(len(frames) for *_, frames in bad)} of {total} frames are doubtful, look at them:"]
    for source, step, frames in bad[:MOST_NAMED]:
        numbers = f", frames {stretches([number for number, _ in frames], step)}" if source.video else ""
        seen = {doubt for _, why in frames for doubt in why}
        reasons = "; ".join(text for doubt, text in MEANING.items() if doubt in seen)
        lines.append(f"  {show(source.path)}{numbers} ({reasons})")
    return lines + ([f"  and in {len(bad) - MOST_NAMED} more files"] if len(bad) > MOST_NAMED else [])


def stretches(frames: Sequence[int], step: int) -> str:
    """Numbers in words, as "3-9, 12": the longest stretches of neighbors, `step` apart, `MOST_NAMED` at most."""
    runs: list[list[int]] = []
    for frame in frames:
        if runs and frame - runs[-1][-1] == step:
            runs[-1].append(frame)
        else:
            runs.append([frame])
    kept = sorted(sorted(runs, key=len, reverse=True)[:MOST_NAMED])
    said = ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in kept)
    left = len(frames) - sum(map(len, kept))
    return said + (f" and {left} more" if left else "")
