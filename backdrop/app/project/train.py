"""`backdrop train`: `dvc repro`, told step by step, with DVC's own words in a log file."""

from __future__ import annotations

import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, NamedTuple

import yaml

from backdrop.app.project.new import SETTINGS, compose_project, is_project, refresh
from backdrop.app.project.pipeline import LIBRARY_STAGE, installed_version
from backdrop.app.project.steps import STEPS, Times, Words, clock, last_error, part_in_words, step_names
from backdrop.errors import BackdropError
from backdrop.io.files import show, writing
from backdrop.run.locks import locked
from backdrop.run.processes import BARS

LOG = "runs/train.log"
"""In a project: all that DVC and the stages said in the last run."""

PATIENCE = 60.0
"""Seconds that the stages have to end after Ctrl-C; a second Ctrl-C ends them at once."""

_STAGE = re.compile(r"(Running) stage '([^']+)'|Stage '([^']+)' (?:didn't change|is cached)")

_BAR = re.compile(r"(?:(.*?): )?\s*(\d+)%\|.*?\[[\d:]+<([\d:]+|\?)[^\]]*\]?")


class Bar(NamedTuple):
    """A progress bar of a stage: what it counts, percent, seconds left (None: not known), what stands behind it."""

    title: str
    percent: int
    left: float | None
    behind: str = ""


def run_steps(project: Path) -> None:
    """Run what is stale in a project, or in the tool's clone. In a project, params.yaml is composed from conf/ first.

    Raises:
        BackdropError: there is no project, another run works there, or a step fails: with its last line and the log.
        KeyboardInterrupt: stopped; the steps have ended.
    """
    names = step_names(project)
    log = project / LOG
    with writing(log):
        log.parent.mkdir(parents=True, exist_ok=True)
    with locked(log.with_suffix(".lock"), f"another `backdrop train` works in {show(project)}; wait for it to end"):
        if is_project(project):
            _bring_up_to_date(project)
            names = step_names(project)
        story = Story(names, Times(project))
        with writing(log), log.open("w", encoding="utf-8") as stream:
            status = _follow(project, story, stream)
    if status:
        raise BackdropError(f"{story.failed()}; all that was said is in {show(log)}")


def _bring_up_to_date(project: Path) -> None:
    changed, kept = refresh(project)
    if changed:
        print(f"brought up to date with Backdrop {installed_version()}: {_some(changed)}", file=sys.stderr)
    if kept:
        print(
            f"kept as you edited it, though Backdrop {installed_version()} has another: {_some(kept)}", file=sys.stderr
        )
    before = _leaves(project / "params.yaml")
    compose_project(project)
    after = _leaves(project / "params.yaml")
    footage = str(after.get("data.path"))
    if after.get("data.layout") != "synthetic" and not (project / footage).exists():
        raise BackdropError(
            f"{show(footage)} does not exist: set data.root in {show(project / SETTINGS)} to your footage"
        )
    roi = after.get("data.roi")
    if roi is not None and not (project / str(after["data.roi_path"])).exists():
        raise BackdropError(f"data.roi {show(str(roi))} does not exist: mend it in {show(project / SETTINGS)}")
    news = [f"{key}={value}" for key, value in after.items() if key in before and before[key] != value]
    if news:
        print(f"params.yaml is composed from conf/ anew: {_some(news)}", file=sys.stderr)


def _some(words: Sequence[str]) -> str:
    return ", ".join(words[:5]) + (f" and {len(words) - 5} more" if len(words) > 5 else "")


def _leaves(path: Path) -> dict[str, object]:
    """The values of a parameter file by their dotted keys; of no such file none."""
    found: dict[str, object] = {}

    def walk(place: object, prefix: str) -> None:
        if isinstance(place, dict):
            for key, value in place.items():
                walk(value, f"{prefix}.{key}" if prefix else str(key))
        else:
            found[prefix] = place

    with suppress(OSError, ValueError, yaml.YAMLError):
        walk(yaml.safe_load(path.read_text(encoding="utf-8")), "")
    return found


# ------------------------------------------------------------------------------------------ running DVC


def _follow(project: Path, story: Story, log: IO[str]) -> int:
    """Run `dvc repro`, and tell and log what it says. Its exit status."""
    folder = str(Path(sys.executable).parent)  # `python` of the stages is this one, whatever the shell calls so
    path = f"{folder}{os.pathsep}{os.environ.get('PATH', '')}"
    env = {**os.environ, "PATH": path, "PYTHONUNBUFFERED": "1", BARS: "1", "DVC_NO_ANALYTICS": "1"}
    command = [sys.executable, "-m", "dvc", "repro"]
    streams: dict = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    # of a group of its own, so that a stop reaches all of it once, whether it came by Ctrl-C or by a signal
    with _interrupts_heeded():
        process = subprocess.Popen(command, cwd=project, env=env, start_new_session=True, **streams)
    with _stopped_together(process):
        try:
            for text, whole in _pieces(process):
                if whole:
                    log.write(f"{text}\n")
                    log.flush()
                story.hear(text)
            status = process.wait()
            if status:  # a stage that was killed, as for want of memory, leaves its workers behind
                _signal_group(process, getattr(signal, "SIGKILL", signal.SIGTERM))
        finally:
            story.clear()
    story.end(status == 0)
    return status


@contextmanager
def _interrupts_heeded() -> Iterator[None]:
    """What is started in the block heeds SIGINT, by which `_end` stops it, even if this process is in a shell's
    background, where SIGINT is ignored and that is inherited."""
    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    if ignored:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        if ignored:
            signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextmanager
def _stopped_together(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """When the block is left by an exception, or this process is told to end, the other ends, too."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = {}
    for name in ("SIGTERM", "SIGHUP"):
        with suppress(AttributeError, ValueError):  # Windows has no SIGHUP; a thread may not set it
            if signal.getsignal(getattr(signal, name)) is not signal.SIG_IGN:  # nohup's wish counts
                before[name] = signal.signal(getattr(signal, name), interrupt)
    try:
        yield
    except BaseException:
        _end(process)
        raise
    finally:
        for name, handler in before.items():
            signal.signal(getattr(signal, name), handler)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask DVC and its stages to end, as Ctrl-C does; kill them if they do not, or at a second Ctrl-C."""
    try:
        _signal_group(process, signal.SIGINT)
        process.communicate(timeout=PATIENCE)  # they could not end if nobody read what they say
    except (KeyboardInterrupt, subprocess.TimeoutExpired):
        pass
    finally:
        _signal_group(process, getattr(signal, "SIGKILL", signal.SIGTERM))
        process.wait()


def _signal_group(process: subprocess.Popen[bytes], number: int) -> None:
    with suppress(OSError):  # it has ended
        if hasattr(os, "killpg"):
            os.killpg(process.pid, number)
        elif process.poll() is None and number != signal.SIGINT:  # Windows: Ctrl-C reached it by itself
            process.terminate()


def _pieces(process: subprocess.Popen[bytes]) -> Iterator[tuple[str, bool]]:
    """What is said, as it comes: lines (True), and the states of progress bars, which end in a carriage return."""
    rest = b""
    while block := _read_when_there(process):
        *pieces, rest = re.split(rb"(?<=[\r\n])", rest + block)
        for piece in pieces:
            text = piece.decode("utf-8", "replace")
            yield text.rstrip("\r\n"), text.endswith("\n")
    if rest:
        yield rest.decode("utf-8", "replace"), True


def _read_when_there(process: subprocess.Popen[bytes]) -> bytes:
    """What is there, as soon as something is; b"" at the end.

    The wait is in pieces of a second, for two reasons. A signal that comes just before a read would wait until DVC
    speaks, which may be an hour. And workers of a stage that was killed hold the pipe open long after DVC has ended.
    """
    assert process.stdout is not None
    stream = process.stdout
    while os.name == "posix" and not select.select([stream], [], [], 1.0)[0]:  # Windows cannot ask a pipe
        if process.poll() is not None and not select.select([stream], [], [], 0)[0]:
            return b""
    return os.read(stream.fileno(), 1 << 16)


# --------------------------------------------------------------------------------------------- telling it


class Story:
    """Tells the steps on stderr as DVC says them: which of how many, what and why, how long it may still take.

    Where that is a terminal, the last line shows the step's progress.
    """

    def __init__(self, names: Sequence[str], times: Times) -> None:
        self.names, self.times = list(names), times
        self.seen: list[str] = []
        self.unchanged: list[str] = []
        self.current: str | None = None
        self.began = 0.0
        self.own: float | None = None  # seconds that the step was expected to take, as it began
        self.rest: float | None = None  # and those after it
        self.said: list[str] = []
        self.live = sys.stderr.isatty()

    def hear(self, text: str) -> None:
        """A line that DVC or a stage said, or the state of a progress bar."""
        stage, bar = _STAGE.match(text), read_bar(text)
        if stage:
            self._next(stage[2] or stage[3], ran=stage[1] is not None)
        elif bar:
            self._show(bar)
            if bar.behind:  # a stage that was killed ends no line
                self.hear(bar.behind)
        else:
            self.said.append(text)
            if text.startswith("warning: "):
                self._say(f"  {text}")

    def end(self, well: bool) -> None:
        """DVC has ended, well or not."""
        self._tell_unchanged()
        if well and self.current is not None:
            self._done()

    def failed(self) -> str:
        """Which step failed, and its last error line."""
        where = f"the step {self.current!r} failed" if self.current else "nothing could be run"
        return f"{where}: {last_error(self.said)}"

    def _next(self, name: str, ran: bool) -> None:
        if self.current is not None:
            self._done()
        self.said.clear()
        if name == LIBRARY_STAGE:
            return
        self.seen.append(name)
        if not ran:
            self.unchanged.append(name)
            return
        self._tell_unchanged()
        self.current, self.began = name, time.monotonic()
        self.own, self.rest = self.times.expected(name), self.times.left(self._waiting())
        words = STEPS.get(name, Words(name, ""))
        self._say(f"step {len(self.seen)} of {len(self.names)}: {words.what}{self._estimate()}")
        if words.why:
            self._say(f"  ({words.why})")

    def _waiting(self) -> list[str]:
        return [name for name in self.names if name not in self.seen]

    def _estimate(self) -> str:
        """What is known of the time, as a step begins."""
        if self.own is None:
            return ""
        return f", about {clock(self.own)}" + (
            f"; {clock(self.own + self.rest)} until all is done" if self.rest else ""
        )

    def _done(self) -> None:
        assert self.current is not None
        took = time.monotonic() - self.began
        self.times.record(self.current, took)
        self._say(f"  done in {clock(took)}")
        self.current = None

    def _tell_unchanged(self) -> None:
        if not self.unchanged:
            return
        first, last = (self.seen.index(self.unchanged[end]) + 1 for end in (0, -1))
        which = f"step {last}" if first == last else f"steps {first} to {last}"
        self._say(f"{which} of {len(self.names)}: nothing changed, taken from an earlier run")
        self.unchanged.clear()

    def _show(self, bar: Bar) -> None:
        if not self.live or self.current is None:
            return
        here = max((self.own or 0.0) - (time.monotonic() - self.began), bar.left or 0.0)
        parts = [f"  {part_in_words(bar.title)} {bar.percent} %".replace("   ", "  ")]
        if here:
            parts.append(f"{clock(here)} left of this step")
        if here and self.rest is not None:
            parts.append(f"{clock(here + self.rest)} until all is done")
        elif self._waiting():
            parts.append(f"{len(self._waiting())} more steps")
        width = shutil.get_terminal_size().columns - 1
        sys.stderr.write(f"\r\x1b[K{', '.join(parts)[:width]}")
        sys.stderr.flush()

    def _say(self, text: str) -> None:
        self.clear()
        print(text, file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Take the progress line away."""
        if self.live:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


def read_bar(text: str) -> Bar | None:
    """The state of one of tqdm's bars; None: it is something else."""
    text = text.strip("\r")
    found = _BAR.match(text)
    if found is None:
        return None
    left = None
    if found[3] != "?":
        left = 0.0
        for part in found[3].split(":"):
            left = 60 * left + float(part)
    return Bar((found[1] or "").strip(), int(found[2]), left, text[found.end() :])
