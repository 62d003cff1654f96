"""The command `backdrop`: segment material, carry masks into other tools, see what is installed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from backdrop.app.commands import (
    SOME_FAILED,
    BackgroundChoice,
    Commands,
    Confidence,
    CRFChoice,
    Device,
    Format,
    Formats,
    Inputs,
    Instances,
    MinArea,
    ModelFolder,
    ParamsFile,
    Refinement,
    RoiChoice,
    SplitChoice,
    SteadyChoice,
    Threshold,
    UrlPrefix,
    WebM,
    WithImages,
    check_out,
    check_trained,
    load_model,
    name_faults,
    predict_files,
    read_regions,
    say_nothing,
    warn_of_damage,
)
from backdrop.errors import BackdropError

MODEL = Path("models/segmenter")


app = typer.Typer(
    cls=Commands,
    name="backdrop",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _say_version(wanted: bool) -> bool:
    if wanted:
        from backdrop.app.project.pipeline import installed_version

        typer.echo(f"backdrop {installed_version()}")
        raise typer.Exit
    return wanted


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Say the version, and end.")
    ] = False,
) -> None:
    """Find and segment the moving subject of your videos, without labels."""


@app.command()
def new(
    folder: Annotated[Path, typer.Argument(help="The project's folder; it does not exist yet, or is empty.")],
    videos: Annotated[
        Path,
        typer.Option(help="Your footage: a folder of videos and of folders of images, or one video.", readable=False),
    ],
) -> None:
    """Make a project for your own footage: a folder with settings, under git and DVC, which `backdrop train` runs.

    \b
    backdrop new skiing --videos "My videos/2026 (Åre)"
    cd skiing
    backdrop train
    """
    import shlex

    from backdrop.app.project.new import git_knows_somebody, new_project

    found = new_project(folder, videos)
    for one in found:
        if one.fault:
            print(f"warning: {one.source} will be left out: {one.fault}", file=sys.stderr)
    count = sum(not one.fault for one in found)
    what = f"{count} video{'s' * (count != 1)} of {videos}" if videos.is_dir() else f"the video {videos}"
    typer.echo(f"{folder} is a project for {what}. Its settings are in {folder / 'conf' / 'config.yaml'}")
    if not git_knows_somebody(folder):
        typer.echo(
            "git does not know your name, and asks for it when you commit or run `dvc exp run`: "
            '`git config --global user.name "NAME"` and `git config --global user.email MAIL`'
        )
    typer.echo(f"Next:\n  cd {shlex.quote(str(folder))}\n  backdrop train")


@app.command()
def train(
    project: Annotated[Path, typer.Argument(help="The project's folder, or the tool's clone.")] = Path("."),
) -> None:
    """Train on a project's footage, mask every frame, and write the report: `dvc repro`, told step by step.

    \b
    backdrop train
    backdrop train path/to/project

    What a change did not touch is not run again. Stopped, the same command goes on where it was.
    """
    from backdrop.app.project.models import keep_model
    from backdrop.app.project.summary import summary
    from backdrop.app.project.train import run_steps

    run_steps(project)
    typer.echo(summary(project))
    kept = keep_model(project)
    if kept is not None:
        typer.echo(f"kept    {kept}")


@app.command()
def predict(
    inputs: Inputs,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for what is written.")],
    *,
    model: ModelFolder = MODEL,
    formats: Formats = None,
    refinement: CRFChoice = Refinement.auto,
    threshold: Threshold = None,
    params: ParamsFile = None,
    min_confidence: Confidence = 0.0,
    instances: Instances = None,
    roi: RoiChoice = None,
    every: Annotated[int, typer.Option(help="Every n-th frame of a video.", min=1)] = 1,
    batch: Annotated[int, typer.Option(help="Frames of a video at a time.", min=1)] = 8,
    device: Device = "auto",
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no summary; errors only.")] = False,
) -> None:
    """Segment images and videos, or what a camera (0), an address or a pipe (-) sends.

    \b
    backdrop predict photo.jpg -o out
    backdrop predict videos/ -o out --format overlay --format coco
    backdrop predict run.mp4 -o out --format video --every 2 --refine none
    backdrop predict match.mp4 -o out --format davis --instances 2
    backdrop predict 0 -o out --refine none

    Stopped, the same command goes on where it was. Exit status: 0 all segmented, 3 some inputs are damaged or
    could not be read (the rest is segmented), 1 an error, 2 a wrong command line.
    """
    from backdrop.app.live.inputs import live_input
    from backdrop.app.live.session import predict_live
    from backdrop.app.pictures import PICTURES
    from backdrop.app.predict import Job, identity
    from backdrop.app.project.models import needed_crf, threshold_of
    from backdrop.app.records import Settings
    from backdrop.app.sources import find_sources
    from backdrop.frames.layouts.listing import warn

    chosen = [one.value for one in formats or [Format.masks]]
    check_out(out, inputs=inputs)
    live = live_input(inputs)
    sources = [live.source(out)] if live else find_sources(inputs, out, say_nothing if quiet else warn)
    segmenter = load_model(model, device, None if quiet else sources)
    crf = None if refinement is Refinement.none else needed_crf(model, params, refinement is Refinement.crf)
    level = threshold_of(segmenter, model, crf is not None) if threshold is None else threshold
    settings = Settings(identity(model), level, crf, every, min_confidence, instances, read_regions(roi))
    job = Job(segmenter, out, settings, [name for name in chosen if name in PICTURES], batch)
    status = predict_live(job, live, chosen, quiet) if live else predict_files(job, sources, chosen, quiet)
    if status:
        raise typer.Exit(status)


@app.command()
def export(
    folder: Annotated[Path, typer.Argument(help="What `backdrop predict -o` wrote.")],
    formats: Annotated[list[Format], typer.Option("--format", "-f", help="May be given several times.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Where to; by default the same folder.")] = None,
    *,
    images: WithImages = False,
    min_area: MinArea = None,
    split: SplitChoice = False,
    url_prefix: UrlPrefix = "",
    background: BackgroundChoice = "white",
    webm: WebM = False,
    steady: SteadyChoice = False,
) -> None:
    """Carry masks into other tools, without segmenting again.

    \b
    backdrop export out --format coco --images
    backdrop export out --format yolo --format csv --min-area 200 -o labels
    backdrop export out --format background --background beach.jpg

    Exit status: 0 all exported, 3 some sources are damaged or could not be (what could be is), 1 an error, 2 a wrong
    command line.
    """
    from backdrop.app.exports import FORMATS, export_all
    from backdrop.app.exports.common import ExportChoices, Faults, recorded
    from backdrop.app.predict import alone_in

    if out is not None:
        check_out(out)
    unknown = [one.value for one in formats if one.value not in FORMATS]
    if unknown:
        raise BackdropError(f"{', '.join(unknown)}: made while segmenting; run `backdrop predict` with that format")
    target = out or folder
    faults: Faults = []
    found = recorded(folder, faults=faults)
    damaged = warn_of_damage(found)
    chosen = [one.value for one in formats] if found else []
    choices = ExportChoices(min_area, images, split, url_prefix, background, webm, steady)
    with alone_in(target):
        written, left_out = export_all(found, target, chosen, choices)
    for name, files in written.items():
        typer.echo(f"{name}: {len(files)} file{'s' * (len(files) != 1)}, {files[0] if files else target}")
    name_faults(faults + left_out)
    if faults or left_out or damaged:
        raise typer.Exit(SOME_FAILED if any(written.values()) else 1)


@app.command()
def report(
    project: Annotated[Path, typer.Argument(help="The project's folder, with metrics/ and data/.")] = Path("."),
    out: Annotated[Path, typer.Option("--out", "-o", help="The HTML file.")] = Path("metrics/report.html"),
) -> None:
    """Write one HTML file about the last scored run: scores, best and worst frames, curves, parameters.

    \b
    backdrop report
    backdrop report path/to/project -o report.html
    """
    from backdrop.report.report import write_report

    check_out(out, folder=False)
    check_trained(project)
    typer.echo(f"wrote {write_report(project, out)}")


@app.command()
def review(
    project: Annotated[Path, typer.Argument(help="The project's folder, trained.")] = Path("."),
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for what is written; new or empty.")] = Path(
        "review"
    ),
    *,
    count: Annotated[int, typer.Option("--frames", "-n", help="How many frames.", min=1, max=1000)] = 10,
    url_prefix: UrlPrefix = "",
) -> None:
    """Name the frames whose labels would help most: a page with them, and tasks for CVAT and Label Studio.

    \b
    backdrop review
    backdrop review -n 5 -o to_label
    """
    from backdrop.app.review.choice import candidates, choose, labeled_frames
    from backdrop.app.review.tasks import write_review

    check_out(out)
    if out.is_dir() and any(out.iterdir()):
        raise BackdropError(
            f"-o {out} is not empty, and may hold somebody's work; name a folder that does not exist yet"
        )
    check_trained(project, "data/frames/index.csv")
    chosen = choose(candidates(project), count, labeled_frames(project))
    if not chosen:
        raise BackdropError("every frame that was looked at is labeled already")
    write_review(project, chosen, out, url_prefix)
    for one in chosen:
        typer.echo(f"{one.sequence}, frame {one.t}: sure {one.sure:.2f}")
    typer.echo(f"wrote {out / 'index.html'}: what to do with them stands there")


@app.command()
def onnx(
    out: Annotated[Path, typer.Option("--out", "-o", help="The ONNX file.")],
    model: ModelFolder = MODEL,
    int8: Annotated[
        list[str] | None,
        typer.Option(help="Footage like that to come (files, folders, patterns): the student computes with 8 bits."),
    ] = None,
) -> None:
    """Write the model as one ONNX file, for programs without PyTorch: image -> mask, box, cell probabilities, presence.

    \b
    backdrop onnx -o model.onnx
    backdrop onnx -o model.onnx --model models/joint
    backdrop onnx -o small.onnx --int8 clip.mp4

    The image comes at the working size; the mask is the one before the guided filter (see backdrop/app/onnx.py).
    """
    from backdrop.app.onnx import describe, export_onnx
    from backdrop.app.reader import some_frames
    from backdrop.app.sources import find_sources

    check_out(out, folder=False)
    path = export_onnx(load_model(model, "cpu", None), out, some_frames(find_sources(int8)) if int8 else None)
    typer.echo(f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB)")
    for line in describe(path):
        typer.echo(line)


@app.command()
def demo(
    *,
    model: ModelFolder = MODEL,
    host: Annotated[str, typer.Option(help="Address to listen on; by default only this machine reaches it.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(help="0, or taken: the next free one.", min=0, max=65535)] = 7860,
    max_upload: Annotated[float, typer.Option(help="Largest file, MB.", min=0.001)] = 200,
    device: Device = "auto",
    params: ParamsFile = None,
) -> None:
    """Open a page in the browser: drop an image or a short video, see its mask. Nothing leaves the machine.

    \b
    backdrop demo
    backdrop demo --model models/segmenter --port 8000
    """
    from backdrop.app.page.server import Address, ChosenThresholds, serve
    from backdrop.app.project.models import crf_of, note_of, threshold_of

    segmenter = load_model(model, device, None)
    crf = crf_of(model, params)
    note = note_of(model)
    about = "" if note is None else note.words()
    thresholds = ChosenThresholds(*(threshold_of(segmenter, model, refined) for refined in (False, True)))
    serve(segmenter, thresholds, crf, Address(host, port), max_upload, about=about)


@app.command()
def models(
    project: Annotated[Path, typer.Argument(help="The project's folder, or the tool's clone.")] = Path("."),
) -> None:
    """List a project's models, each with what it was trained on. `backdrop train` keeps every one it makes.

    \b
    backdrop models
    backdrop models path/to/project
    """
    from backdrop.app.project.models import model_lines

    for line in model_lines(project):
        typer.echo(line)


@app.command()
def doctor(
    params: Annotated[Path, typer.Option(help="Parameters whose flow model and weights are looked for.")] = Path(
        "params.yaml"
    ),
) -> None:
    """Versions, devices, what is missing here, and what to do about it.

    \b
    backdrop doctor
    backdrop doctor --params path/to/params.yaml

    Exit status 1 where something is missing.
    """
    from backdrop.app.project.doctor import facts, missing

    for line in facts():
        typer.echo(line)
    problems = missing(params, MODEL)
    if not problems:
        typer.echo("all is well")
        return
    for what, remedy in problems:
        typer.echo(f"missing: {what}\n  what to do: {remedy}")
    raise typer.Exit(1)


def main() -> None:
    """Entry point: a BackdropError is one line and exit status 1; Ctrl-C is 130."""
    from backdrop.stage import run

    run(app)


if __name__ == "__main__":
    main()
