"""`backdrop train`: what it says of a run, of a failure and of a stop. The pipeline is one of two trivial stages."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from backdrop.app.project import steps, train
from backdrop.app.project.pipeline import project_stages
from backdrop.app.project.steps import STEPS, Times, clock, last_error, part_in_words, step_names
from backdrop.app.project.train import LOG, PATIENCE, Bar, Story, read_bar, run_steps
from backdrop.errors import BackdropError
from backdrop.run.locks import locked
from tests.app.project.fake_project import FIRST, SECOND, fake_project
from tests.backdrop_command import call
from tests.small_pipeline import ROOT


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return fake_project(tmp_path / "project", monkeypatch)


def told(project: Path) -> str:
    screen = io.StringIO()
    with contextlib.redirect_stderr(screen):
        run_steps(project)
    return screen.getvalue()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_each_step_is_told_with_its_number_and_its_reason(project: Path) -> None:
    said = told(project)
    assert "step 1 of 2: reading the footage\n  (every later step reads single frames)\n" in said
    assert "step 2 of 2: learning where the subject is" in said
    assert said.count("  done in ") == 2
    assert "  warning: run2 (damaged): cut off\n" in said, "what a stage warns of is not buried in the log"
    assert (project / "b").read_text() == "2"
    logged = (project / LOG).read_text()
    assert "Running stage 'train'" in logged
    assert "said by the second" in logged
    assert "Running stage" not in said
    assert logged.count("frames:") == 1, "of a progress bar the last state alone is logged"


def test_what_has_not_changed_is_one_line(project: Path) -> None:
    told(project)
    assert told(project) == "steps 1 to 2 of 2: nothing changed, taken from an earlier run\n"
    (project / "second.py").write_text(SECOND + "# changed\n")
    said = told(project)
    assert said.startswith("step 1 of 2: nothing changed, taken from an earlier run\nstep 2 of 2: learning")


BAR = "import sys\nprint('student:  28%|## | 83/300 [00:34<01:35,  2.28it/s]', end='', flush=True)"
"""A bar that nobody closes."""


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import sys\nprint('error: no room', file=sys.stderr)\nsys.exit(1)", "the step 'train' failed: no room;"),
        ("{}['x']", "the step 'train' failed: KeyError: 'x';"),
        ("import os\nos._exit(3)", "the step 'train' failed: failed to reproduce 'train'"),
        ("print('error: two:\\n  a: 1\\n  b: 2')\nraise SystemExit(1)", "failed: two: a: 1 b: 2;"),
        ("print('done, but wrote nothing')", "output 'b' does not exist"),
        (f"{BAR}\nprint('error: no room')\nsys.exit(1)", "the step 'train' failed: no room;"),
        (
            f"{BAR}\nimport os\nos.kill(os.getpid(), 9)",
            "failed: something outside ended it (signal 9)",
        ),
    ],
)
def test_a_step_that_fails_is_named_with_its_last_error_and_the_log(code: str, words: str, project: Path) -> None:
    (project / "second.py").write_text(code)
    with pytest.raises(BackdropError, match=re.escape(words)) as caught:
        told(project)
    assert str(project / LOG) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    (project / "second.py").write_text(SECOND)
    assert told(project).startswith("step 1 of 2: nothing changed"), "what ran before the failure is not lost"


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [("dvc.lock", "{", "'./dvc.lock' is invalid"), ("dvc.yaml", "stages:\n  x:\n    nope: 3\n", "validation failed")],
)
def test_a_damaged_file_of_dvcs_is_named(file: str, text: str, words: str, project: Path) -> None:
    (project / file).write_text(text)
    with pytest.raises(BackdropError, match=f"nothing could be run: .*{words}"):
        told(project)


def test_what_dvc_itself_says_is_passed_on(project: Path) -> None:
    (project / "first.py").unlink()
    with pytest.raises(BackdropError, match=r"nothing could be run: .*first\.py.*; all that was said is in"):
        told(project)


@pytest.mark.parametrize(
    ("number", "background"),
    [(signal.SIGINT, False), (signal.SIGTERM, False), (signal.SIGHUP, False), (signal.SIGTERM, True)],
)
def test_a_stop_ends_the_stage_and_says_what_to_do(number: int, background: bool, project: Path) -> None:
    """Also one that a shell has put in its background, under nohup: it does not heed SIGINT and SIGHUP."""
    (project / "second.py").write_text(
        "import os, time\nopen('pid', 'w').write(str(os.getpid()))\ntime.sleep(600)\nopen('b', 'w').write('2')\n"
    )
    command = [sys.executable, "-m", "backdrop.app.cli", "train", str(project)]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    # what it inherits is set in both cases: these tests may themselves run in the background of a shell
    wish = signal.SIG_IGN if background else signal.SIG_DFL
    heeded = {one: signal.signal(one, wish) for one in (signal.SIGINT, signal.SIGHUP)}
    process = subprocess.Popen(command, start_new_session=True, **streams)  # type: ignore[call-overload]
    for one, handler in heeded.items():
        signal.signal(one, handler)
    deadline = time.monotonic() + 120
    while not (project / "pid").exists() or not (project / "pid").read_text():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    stage = int((project / "pid").read_text())
    if background:
        process.send_signal(signal.SIGHUP)
        time.sleep(0.5)
        assert process.poll() is None, "the end of its terminal is nothing to it"
    process.send_signal(number)  # to this process alone, as `kill` does
    said = process.communicate(timeout=2 * PATIENCE)  # a stage that missed the signal is killed after it
    assert process.returncode == 130, said
    assert said[1].endswith("stopped; run the same command again to go on\n")
    assert "Traceback" not in said[1]
    assert not Path("/proc", str(stage)).exists(), "the stage ended before"
    (project / "second.py").write_text(SECOND)
    assert told(project).startswith("step 1 of 2: nothing changed")


def test_no_read_waits_for_what_is_not_there_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal just before such a read would not be heeded until something comes."""
    code = "import time; time.sleep(0.3); print('late', flush=True)"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout is not None
    pipe, real = process.stdout.fileno(), os.read

    def checked(stream: int, count: int) -> bytes:
        assert stream != pipe or select.select([stream], [], [], 0)[0]
        return real(stream, count)

    monkeypatch.setattr(train.os, "read", checked)
    with process:
        assert list(train._pieces(process)) == [("late", True)]


@pytest.mark.parametrize("shell", ["/bin/sh", "/bin/bash"])  # DVC's; dash stays between it and the stage, bash does not
def test_workers_of_a_stage_that_was_killed_are_not_waited_for(
    shell: str, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They hold the pipe open, and nobody ends them but `backdrop train`."""
    monkeypatch.setenv("SHELL", shell)
    (project / "second.py").write_text(
        "import os, signal, subprocess, sys\n"
        "worker = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "open('pid', 'w').write(str(worker.pid))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    begun = time.monotonic()
    with pytest.raises(BackdropError, match=r"the step 'train' failed: something outside ended it \(signal 9\)"):
        told(project)
    assert time.monotonic() - begun < 120
    worker = Path("/proc", (project / "pid").read_text(), "stat")
    deadline = time.monotonic() + 20
    while worker.exists() and worker.read_text().split(")")[-1].split()[0] != "Z":
        assert time.monotonic() < deadline, "it lives on"
        time.sleep(0.05)


def test_a_second_run_says_that_the_first_is_under_way(project: Path) -> None:
    (project / "runs").mkdir()
    with locked(project / "runs" / "train.lock", ""), pytest.raises(BackdropError, match="another `backdrop train`"):
        told(project)
    assert not (project / LOG).exists()


@pytest.mark.parametrize(
    ("text", "words"), [(None, "backdrop new"), ("{", "no pipeline"), ("stages: 3", "no pipeline"), ("", "no pipeline")]
)
def test_a_folder_that_is_no_project(text: str | None, words: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "dvc.yaml").write_text(text)
    status, said = call("train", tmp_path)
    assert status == 1
    assert words in said
    assert str(tmp_path) in said
    assert len(said.splitlines()) == 1


def test_a_pipeline_of_ones_own_ends_without_a_summary(project: Path) -> None:
    status, said = call("train", project)
    assert status == 0, said
    assert "masks" not in said.splitlines()[-1]


# ------------------------------------------------------------------------------------------ words and times


def test_every_stage_has_words(tmp_path: Path) -> None:
    assert step_names(ROOT) == list(STEPS)
    (tmp_path / "dvc.yaml").write_text(project_stages((ROOT / "dvc.yaml").read_text()))
    own = [name for name in STEPS if name != "render"]
    assert step_names(tmp_path) == own, "a project's own stage is not counted"


def test_bars_are_read() -> None:
    assert read_bar("student round 1:  45%|####5     | 90/200 [00:10<01:12,  8.9it/s]") == Bar(
        "student round 1", 45, 72
    )
    assert read_bar("x:   0%|          | 0/4 [00:00<?, ?it/s]") == Bar("x", 0, None)
    assert read_bar(" 50%|##   | 1/2 [1:00:00<2:00:01, 3s/it]") == Bar("", 50, 7201)
    assert read_bar("x: 50%|##   | 1/2 [00:01<00:01, 1s/it]error: a") == Bar("x", 50, 1, "error: a")
    assert read_bar("frames: 12frame [00:01, 8frame/s]") is None
    assert read_bar("loss 50% [x]") is None


def test_a_terminal_shows_progress_and_time_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(steps, "_work", lambda name, _: asked.append(name) or 2.0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    times = Times(tmp_path)
    times.measured = {"frames": (60.0, 1.0), "train": (600.0, 1.0)}
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    story = Story(["frames", "train"], times)
    story.hear("Running stage 'frames':")
    assert "step 1 of 2: reading the footage, about 2 min; 22 min until all is done" in screen.getvalue()
    asked.clear()
    story.hear("frames:  25%|##5   | 1/4 [00:10<03:00,  8.9it/s]")
    assert not asked, "the work is measured once a step, not at each state of a bar"
    assert screen.getvalue().endswith("  storing frames 25 %, 3 min left of this step, 23 min until all is done")
    story.clear()
    assert screen.getvalue().endswith("\r\x1b[K")


@pytest.mark.parametrize(
    ("title", "words"),
    [
        ("looking", "looking through the videos"),
        ("pseudo-masks, round 2", "making masks to learn from (round 2)"),
        ("weights of the cues", "weighing what was found"),
        ("flow (dis)", ""),
        ("joint training", ""),
        ("a stage of one's own", "a stage of one's own"),
    ],
)
def test_a_bar_is_told_in_words_that_a_newcomer_has(title: str, words: str) -> None:
    assert part_in_words(title) == words


def test_every_bar_of_the_pipeline_has_words() -> None:
    packages = ["frames", "stabilize", "flow", "inpaint", "train", "student", "segment", "refine", "score"]
    text = "".join(path.read_text() for name in packages for path in (ROOT / "backdrop" / name).rglob("*.py"))
    titles = re.findall(r'(?:title|desc)=f?"([^"]+)"|progress\([^"\n]+, f?"([^"]+)"\)', text)
    named = {re.sub(r"\{[^}]+\}", "1", one or other) for one, other in titles}
    assert {"looking", "stabilize", "joint training", "student, round 1"} <= named
    assert all(part_in_words(one) != one for one in named), named


def test_a_step_takes_longer_where_there_is_more_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name, size in (("small", 10), ("large", 30)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "clip").write_bytes(b"x" * size)
        (tmp_path / name / "params.yaml").write_text(yaml.safe_dump({"data": {"path": "clip"}}))
    assert Times(tmp_path / "small").expected("frames") is None, "not measured yet"
    Times(tmp_path / "small").record("frames", 7)
    assert Times(tmp_path / "small").expected("frames") == 7
    assert Times(tmp_path / "large").expected("frames") == 21, "another project on the same machine"
    assert Times(tmp_path / "large").left(["frames", "train"]) is None
    assert Times(tmp_path / "large").expected("a stage of one's own") is None
    stored = json.loads((tmp_path / "cache" / "backdrop" / "times.json").read_text())
    assert stored == {"frames": [7, 10]}


@pytest.mark.parametrize("text", ["", "{", "[]", '{"frames": 3}', '{"frames": ["a", 1]}'])
def test_a_damaged_file_of_times_is_as_none(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "backdrop").mkdir()
    (tmp_path / "backdrop" / "times.json").write_text(text)
    assert Times(ROOT).measured == {}


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "1 s"), (59, "59 s"), (98, "98 s"), (100, "2 min"), (5700, "95 min"), (9000, "2 h 30 min")],
)
def test_times_in_words(seconds: float, words: str) -> None:
    assert clock(seconds) == words


def test_the_last_error_is_the_one_that_explains() -> None:
    assert last_error(["error: a", "ERROR: failed to reproduce 'x'"]) == "a"
    assert last_error(["Traceback", "ValueError: b", "ERROR: failed to reproduce 'x'"]) == "ValueError: b"
    assert last_error(["noise", "ERROR: Unable to acquire lock"]) == "Unable to acquire lock"
    assert last_error(["'./dvc.lock' is invalid.", "While parsing", "  1 {   "]) == "'./dvc.lock' is invalid."
    assert last_error(["noise", ""]) == "noise"
    bar = "student: 28%|## | 83/300 [00:34<01:35,  2.28it/s]"
    for status, number in ((-9, 9), (-15, 15), (137, 9), (143, 15)):
        failed = f"{bar}ERROR: failed to reproduce 'x': failed to run: y, exited with {status}"
        assert f"ended it (signal {number})" in last_error([failed])
    crash = "failed to reproduce 'x': y, exited with -11"
    assert last_error([f"ERROR: {crash}"]) == crash, "nobody outside did that"
    assert last_error([]) == "without a word"


def test_bars_are_drawn_for_the_one_who_reads_them(project: Path) -> None:
    """A stage draws none where stderr is no terminal (`collect`), unless `backdrop train` reads it."""
    (project / "first.py").write_text(
        "from backdrop.run.processes import collect\n"
        f"if __name__ == '__main__':\n    collect(abs, [(1,), (2,)], 1, title='counting', unit='x')\n{FIRST}"
    )
    told(project)
    assert "counting: 100%" in (project / LOG).read_text()
