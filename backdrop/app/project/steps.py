"""The steps of a run in words a newcomer has, and how long each takes on this machine."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from backdrop.app.project.pipeline import LIBRARY_STAGE
from backdrop.errors import BackdropError
from backdrop.io.files import atomic_path, show
from backdrop.io.index import read_index, read_videos


class Words(NamedTuple):
    """What a step does, and why."""

    what: str
    why: str


STEPS = {
    "render": Words("drawing practice videos", "with masks that are known, so that there are scores"),
    "frames": Words("reading the footage", "every later step reads single frames"),
    "stabilize": Words("measuring the camera's motion", "without it, whatever still moves moves by itself"),
    "flow": Words("measuring the motion of every pixel", "what moves unlike its surroundings may be the subject"),
    "inpaint@rgb": Words("learning to fill holes in pictures", "a subject is what cannot be guessed from around it"),
    "inpaint@flow": Words("learning to fill holes in motion", "the same, for how things move"),
    "train": Words("learning where the subject is", "a box, and a first mask in it"),
    "student": Words("learning the masks", "from all that moved; this is the model that you keep"),
    "segment": Words("masking every frame", "each by itself, with the model"),
    "refine": Words("moving outlines to edges in the picture", "masks of the model alone are a little blurred"),
    "score": Words("scoring", "against true masks, where there are any; and drawing contact sheets"),
    "report": Words("writing the report", "all of it on one page"),
}
"""Stage of dvc.yaml -> words."""

PARTS = {
    "looking": "looking through the videos",
    "frames": "storing frames",
    "encoders": "learning to tell frames apart, as a start",
    "motion network fitted": "fitting the motion network to this footage",
    "cues": "finding what moves",
    "cues of whole sequences": "finding what moves, in whole videos",
    "weights of the cues": "weighing what was found",
    "cameras without the subject": "measuring the camera's motion without the subject",
    "pseudo-masks": "making masks to learn from",
    "labels": "taking your labels in",
    "student": "learning from these masks",
}
"""Progress bar of a stage -> words."""


def part_in_words(title: str) -> str:
    """What a progress bar counts, in words, or as it is called. Empty, where the step's own words say it."""
    name, comma, number = title.partition(", round ")
    if name in PARTS:
        return f"{PARTS[name]} (round {number})" if comma else PARTS[name]
    return "" if name.startswith(_PLAIN) else title


_PLAIN = ("stabilize", "flow (", "inpainter ", "joint training", "segment", "refine", "score")
"""Progress bars that are all there is to a step."""


def step_names(project: Path) -> list[str]:
    """The stages of dvc.yaml as DVC names them, a matrix written out, without the project's own stage `library`.

    Raises:
        BackdropError: there is none, or it is no pipeline.
    """
    path = project / "dvc.yaml"
    try:
        stages = yaml.safe_load(path.read_text(encoding="utf-8"))["stages"]
        names = []
        for name, stage in stages.items():
            matrix = list(stage.get("matrix", {}).values())
            names += [f"{name}@{one}" for one in matrix[0]] if len(matrix) == 1 else [name]
    except FileNotFoundError:
        raise BackdropError(
            f"{show(path)} does not exist: run it in a project's folder (`backdrop new` makes one), or name the folder"
        ) from None
    except (yaml.YAMLError, ValueError, KeyError, TypeError, AttributeError):
        raise BackdropError(f"{show(path)} is no pipeline; `git checkout dvc.yaml` brings it back") from None
    return [name for name in names if name != LIBRARY_STAGE]


def clock(seconds: float) -> str:
    """A time in words, as exact as an estimate deserves."""
    if seconds < 99:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"


# SIGKILL and SIGTERM; others are crashes. A shell that waits for its command (dash does, bash does not) adds 128.
_KILLED = re.compile(r"ERROR: failed to reproduce .*, exited with (-9|-15|137|143)$")


def last_error(said: Sequence[str]) -> str:
    """Of what a stage and DVC said, the line that tells best why it failed."""
    for line in said:
        if killed := _KILLED.search(line):  # a progress bar may stand before it
            number = int(killed[1])
            number = -number if number < 0 else number - 128
            return (
                f"something outside ended it (signal {number}), as happens where memory runs out; "
                "the same command goes on where it was"
            )
    for number in range(len(said) - 1, -1, -1):
        if said[number].startswith("error: "):  # ours; a list of problems is indented below it
            rest = []
            for line in said[number + 1 :]:
                if not line.startswith("  "):
                    break
                rest.append(line.strip())
            return " ".join([said[number].removeprefix("error: "), *rest])
    for pattern in (r"[\w.]*(Error|Exception|Interrupt|Exit)\b", r"ERROR: ", r"'.+' (is invalid|validation failed)"):
        for line in reversed(said):
            if re.match(pattern, line):
                return line.removeprefix("ERROR: ")
    return next((line for line in reversed(said) if line.strip()), "without a word")


class Times:
    """How long each step took last on this machine, in whatever project, and how much work it was then.

    A step takes as much longer as its work is larger. Where the work is not known, the time is not.
    """

    def __init__(self, project: Path) -> None:
        self.project = project
        self.path = _cache_folder() / "times.json"
        self.measured: dict[str, tuple[float, float]] = {}
        try:
            stored = json.loads(self.path.read_text(encoding="utf-8"))
            self.measured = {name: (float(seconds), float(work)) for name, (seconds, work) in stored.items()}
        except (OSError, ValueError, TypeError, AttributeError):
            pass  # not measured yet

    def expected(self, name: str) -> float | None:
        """Seconds that a step will take here; None: not known."""
        work = _work(name, self.project)
        seconds, before = self.measured.get(name, (0.0, 0.0))
        return seconds * work / before if work and before else None

    def left(self, names: Iterable[str]) -> float | None:
        """Seconds that some steps take together; None: that of one is not known."""
        each = [self.expected(name) for name in names]
        return None if None in each else sum(filter(None, each))

    def record(self, name: str, seconds: float) -> None:
        """A step took so long. Where it cannot be written, the next run does without."""
        work = _work(name, self.project)
        if work is None:
            return
        self.measured[name] = (round(seconds, 2), work)
        try:
            with atomic_path(self.path) as temporary:
                temporary.write_text(json.dumps(self.measured), encoding="utf-8")
        except (OSError, BackdropError):
            pass


def _cache_folder() -> Path:
    """Where programs of this user keep what they can do without."""
    given = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA")
    try:
        return (Path(given) if given else Path.home() / ".cache") / "backdrop"
    except RuntimeError:  # a user without a home
        return Path(tempfile.gettempdir()) / "backdrop"


def _work(name: str, project: Path) -> float | None:
    """How much a step has to do, in a unit of its own. None: not known (yet)."""
    try:
        params = yaml.safe_load((project / "params.yaml").read_text(encoding="utf-8"))
        if name == "frames":
            return _bytes(project / params["data"]["path"])
        if name in _TRAINING:
            return float(_TRAINING[name](params, _seen_pixels(project)))
        return _seen_pixels(project, name in _SEGMENTED) if name in STEPS and name != "render" else None
    except (OSError, BackdropError, yaml.YAMLError, ValueError, KeyError, TypeError):
        return None


def _bytes(footage: Path) -> float:
    files = [footage] if footage.is_file() else footage.rglob("*")
    return float(sum(path.stat().st_size for path in files if path.is_file()))


_SEGMENTED = ("segment", "refine", "score", "report")
"""Steps that see all frames, also those that are not trained on (`data.budget`)."""


def _seen_pixels(project: Path, segmented: bool = False) -> float:
    """Of all frames that are stored, or of those that are segmented."""
    index = (read_videos if segmented else read_index)(project / "data" / "frames", usable=True)
    return float((index["frames"] * index["width"] * index["height"]).sum())


def _joint_work(params: Mapping[str, Any], _: float) -> float:
    train = params["train"]
    steps = sum(train[key] for key in ("iterations", "detector_iterations", "synthesis_iterations"))
    return steps * train["batch"] * prod(train["size"])


def _student_work(params: Mapping[str, Any], pixels: float) -> float:
    """Iterations, and in each round masks of all frames from the cues, at some four times the cost of a pixel."""
    student = params["student"]
    iterations = student["iterations"] * student["batch"] * prod(student["size"])
    return student["rounds"] * (iterations + 4 * pixels / student["every"]) + 1


def _inpainter_work(params: Mapping[str, Any], _: float) -> float:
    return params["inpainter"]["iterations"] * params["inpainter"]["batch"] * prod(params["train"]["size"])


_TRAINING: dict[str, Callable[[Mapping[str, Any], float], float]] = {
    "inpaint@rgb": _inpainter_work,
    "inpaint@flow": _inpainter_work,
    "train": _joint_work,
    "student": _student_work,
}
