"""Models as things: what they were trained on, the settings that go with them, and copies that no later run overwrites.

`backdrop train` ends by copying `models/segmenter` to `models/kept/<project>_<date>_<time>`, with `note.json` beside
the weights: footage, date, figures, thresholds, the CRF's parameters. Such a folder needs nothing else, so it works
from any place. What a note would say of `models/segmenter` itself is read from the project around it.
"""

from __future__ import annotations

import shutil
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ValidationError, field_validator

from backdrop.config.reading import load_yaml
from backdrop.config.sections import CountOrZero, Fraction
from backdrop.crf.parameters import OLDER_CRF, CRFParams
from backdrop.errors import BackdropError
from backdrop.io.files import atomic_folder, atomic_path, copy_files, show, writing
from backdrop.io.index import trained_frames, trained_sequences
from backdrop.io.masks import THRESHOLD, read_crf, read_threshold
from backdrop.params import read

if TYPE_CHECKING:  # takes seconds
    from backdrop.app.segmenter import Segmenter

NOTE = "note.json"
KEPT = Path("models/kept")
SHIPPED_MODEL = Path("models/segmenter")
WEIGHTS = "model.safetensors"

FOOTAGE_NAMED = 3
"""Videos that a line about a model names, at most."""


class ModelNote(BaseModel):
    """What a kept model says of itself.

    project: the folder's name. made: when it was trained, local time. rendered: on the embedded footage.
    footage, frames: names of the videos it was trained on, and how many frames they have.
    prior: the model from outside that took part; None: there was none.
    j: mean J over the project's scored frames. None: there was no truth.
    threshold, threshold_crf: of masks before and after the CRF; None: that step has not run. crf: its parameters.
    weights: a hash.
    """

    project: str
    made: str
    rendered: bool
    footage: list[str]
    frames: CountOrZero
    prior: str | None = None
    j: float | None = None
    threshold: Fraction | None = None
    threshold_crf: Fraction | None = None
    crf: CRFParams
    weights: str = ""

    @field_validator("crf", mode="before")
    @classmethod
    def _older(cls, value: object) -> object:
        """Notes of before there was a choice of CRF mean the dense one."""
        return {**OLDER_CRF, **value} if isinstance(value, dict) else value

    def words(self) -> str:
        """In a line."""
        count = len(self.footage)
        if self.rendered:
            what = f"the embedded footage ({count} rendered clips"
        else:
            named = ", ".join(map(show, self.footage[:FOOTAGE_NAMED]))
            more = f" and {count - FOOTAGE_NAMED} more" if count > FOOTAGE_NAMED else ""
            what = f"{count} video{'s' * (count != 1)} of {show(self.project)} ({named}{more}"
        prior = "" if self.prior is None else f", with {show(self.prior)} as a model from outside"
        score = "" if self.j is None else f", mean J {self.j:.2f} on that project's frames with truth"
        return f"trained {self.made} on {what}; {self.frames} frames){prior}{score}"


def project_of(model: Path) -> Path:
    """The project in which a model folder lies, if it lies in one."""
    path = model.resolve()
    return (path.parents[1] if path.parent.name == KEPT.name else path.parent).parent


def note_of(model: Path) -> ModelNote | None:
    """What a model folder says of itself, or the project in which it lies. None: neither says anything.

    Raises:
        BackdropError: its note is damaged.
    """
    path = model / NOTE
    if path.is_file():
        try:
            return ModelNote.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as fault:
            why = fault.errors()[0]["msg"] if isinstance(fault, ValidationError) else fault.strerror
            raise BackdropError(
                f"{show(path)} is damaged ({why}); copy the model folder again, or delete this file: then give the "
                "CRF's parameters with --params"
            ) from None
    project = project_of(model)
    return _note_of_project(project) if model.resolve() == (project / SHIPPED_MODEL).resolve() else None


def _note_of_project(project: Path) -> ModelNote | None:
    """None: what a project says of its model is not there, or of another version."""
    try:
        values = load_yaml(project / "params.yaml")  # not `read`: an update may have changed other keys
        frames = project / "data" / "frames"
        made = (project / SHIPPED_MODEL / WEIGHTS).stat().st_mtime
        return ModelNote(
            project=project.resolve().name,
            made=datetime.fromtimestamp(made).strftime("%Y-%m-%d %H:%M"),
            rendered=values["data"]["layout"] == "synthetic",
            footage=list(dict.fromkeys(trained_sequences(frames).values())),
            frames=trained_frames(frames),
            prior=values["student"]["prior"],
            j=_mean_j(project),
            threshold=_chosen(project, "predictions"),
            threshold_crf=_chosen(project, "masks"),
            crf=_as_decided(CRFParams.model_validate(values["crf"]), project),
        )
    except (BackdropError, OSError, ValueError, KeyError, TypeError):
        return None


def _mean_j(project: Path) -> float | None:
    from backdrop.report.scores import read_scores, result_of

    if not (project / "metrics" / "scores.json").is_file():
        return None
    scores = read_scores(project)
    return (result_of(scores, "method") or {}).get("J_mean") if scores.get("frames_scored") else None


def _chosen(project: Path, kind: str) -> float | None:
    folder = project / "data" / kind
    return read_threshold(folder)[0] if (folder / THRESHOLD).is_file() else None


def _as_decided(crf: CRFParams, project: Path) -> CRFParams:
    """With what the stage refine decided in place of `enabled: auto`; as it stands where that has not run."""
    folder = project / "data" / "masks"
    decided = read_crf(folder) if crf.enabled == "auto" and (folder / THRESHOLD).is_file() else None
    return crf if decided is None else crf.model_copy(update={"enabled": decided})


def keep_model(project: Path) -> Path | None:
    """Copy what a project trained to `KEPT`, with its note. Nothing is copied twice.

    Returns:
        The folder; None: there is no model, or the project does not say what it was trained on.

    Raises:
        WriteError: it cannot be written; nothing of it stays.
    """
    from backdrop.app.records import content_hash

    note = _note_of_project(project)
    if note is None:
        return None
    note.weights = content_hash(project / SHIPPED_MODEL / WEIGHTS)
    folder = project / KEPT
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".gitignore").write_text("*\n", encoding="utf-8")
        for left in folder.glob("*.part"):  # a killed process
            shutil.rmtree(left, ignore_errors=True)
    same = [path for path, known in kept_models(project) if known is not None and known.weights == note.weights]
    target = same[0] if same else folder / f"{note.project[:60]}_{_stamp()}"
    if same:
        _write_note(target, note)  # a threshold may be another
    else:
        with atomic_folder(target) as part:
            copy_files(project / SHIPPED_MODEL, part)
            _write_note(part, note)
    return target


def _stamp() -> str:
    return f"{datetime.now():%Y-%m-%d_%H%M%S}"


def _write_note(folder: Path, note: ModelNote) -> None:
    with atomic_path(folder / NOTE) as temporary:
        temporary.write_text(note.model_dump_json(indent=2) + "\n", encoding="utf-8")


def kept_models(project: Path) -> list[tuple[Path, ModelNote | None]]:
    """The kept models, the oldest first, each with its note; None: it is damaged."""
    found: list[tuple[Path, ModelNote | None]] = []
    for path in sorted((project / KEPT).glob("*/" + WEIGHTS), key=lambda path: path.parent.name[-17:]):
        if path.parent.suffix == ".part":
            continue
        try:
            found.append((path.parent, note_of(path.parent)))
        except BackdropError:
            found.append((path.parent, None))
    return found


def model_lines(project: Path) -> list[str]:
    """A line about each model of a project.

    Raises:
        BackdropError: there is none.
    """
    shipped = project / SHIPPED_MODEL
    found = [(shipped, note_of(shipped))] if (shipped / WEIGHTS).is_file() else []
    found += kept_models(project)
    if not found:
        raise BackdropError(
            f"no model in {show(project / 'models')} yet; in a project, `backdrop train` trains one and keeps it"
        )
    return [f"{show(path)}: {'it is not known on what' if note is None else note.words()}" for path, note in found]


def crf_of(model: Path, params: Path | None) -> CRFParams | None:
    """The CRF's parameters: those of `params`, else the model's, else its project's, else of ./params.yaml.

    In a model's own, `enabled` is what the stage refine decided on its footage. "auto" stays where nothing was decided.

    Returns:
        None: there are none.

    Raises:
        BackdropError: `params` is not there, or they cannot be read.
    """
    if params is None:
        if (model / NOTE).is_file():
            note = note_of(model)
            return None if note is None else note.crf
        places = (project_of(model) / "params.yaml", Path("params.yaml"))
        params = next((path for path in places if path.is_file()), None)
        return None if params is None else _as_decided(read(params).crf, project_of(model))
    if not params.is_file():
        raise BackdropError(f"--params {show(params)} is not here; name the file where the CRF's parameters stand")
    return read(params).crf


def needed_crf(model: Path, params: Path | None, asked: bool = False) -> CRFParams | None:
    """The same, where they cannot be done without.

    Args:
        asked: the CRF is wanted even where `enabled` is false.

    Returns:
        None: it is not enabled.

    Raises:
        BackdropError: there are none.
    """
    found = crf_of(model, params)
    if found is None:
        raise BackdropError("the CRF's parameters are not known here: give --params FILE, or --refine none")
    return found.model_copy(update={"enabled": True}) if asked else found if found.enabled else None


def threshold_of(segmenter: Segmenter, model: Path, refined: bool) -> float:
    """The threshold that the model's project chose. Else the student's, else 0.5.

    Args:
        refined: for masks after the CRF, not before it.
    """
    if (model / NOTE).is_file():
        note = note_of(model)
        chosen = None if note is None else note.threshold_crf if refined else note.threshold
    else:
        chosen = _chosen(project_of(model), "masks" if refined else "predictions")
    learned = None if segmenter.student is None else segmenter.student.threshold
    return next((value for value in (chosen, learned) if value is not None), 0.5)
