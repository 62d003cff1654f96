"""Two at once: two `backdrop predict` into one folder, two `dvc repro` in one checkout. Neither harms the other."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from backdrop.app.predict import LOCK, alone_in
from backdrop.errors import BackdropError
from backdrop.video.encode import encode_video
from tests.backdrop_command import call
from tests.handmade_run import scene
from tests.project_copy import kill, new_project
from tests.small_pipeline import contents, environment, write_model

FRAMES = 12


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video, a model, and what `predict` makes of the video undisturbed."""
    folder = tmp_path_factory.mktemp("two")
    encode_video(folder / "run.mp4", scene(FRAMES)[0], fps=10)
    write_model(folder / "segmenter")
    status, said = call("predict", *arguments(folder, folder / "undisturbed"))
    assert status == 0, said
    return folder


def arguments(material: Path, out: Path) -> list[str]:
    model = ("--model", str(material / "segmenter"), "--device", "cpu", "--refine", "none")
    return [str(material / "run.mp4"), "-o", str(out), *model, "--batch", "1", "-f", "masks", "-f", "coco", "--quiet"]


@pytest.fixture
def predict(material: Path) -> Iterator[Callable[[Path], subprocess.Popen[str]]]:
    """Start a `backdrop predict` as a process of its own, its group's leader; what still runs in the end is killed."""
    started = []

    def start(out: Path) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "backdrop.app.cli", "predict", *arguments(material, out)]
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        started.append(subprocess.Popen(command, env=environment(), text=True, start_new_session=True, **streams))
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            kill(process)


def under_way(process: subprocess.Popen[str], out: Path) -> None:
    """Return when a frame is recorded and others are not, with the process stopped."""
    path = out / "records" / "run.jsonl"
    while not path.exists() or path.read_bytes().count(b"\n") < 2:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.005)
    process.send_signal(signal.SIGSTOP)
    assert path.read_bytes().count(b"\n") < FRAMES + 2, "the first one was done before it could be stopped"


def test_a_second_predict_into_one_folder_says_so_and_touches_nothing(
    material: Path, predict: Callable, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    first = predict(out)
    under_way(first, out)
    before = contents(out)
    status, said = call("predict", *arguments(material, out))
    assert status == 1
    assert "another `backdrop predict` is writing into" in said
    assert str(out) in said
    second = predict(out)
    text = second.communicate(timeout=120)[0]
    assert second.returncode == 1
    assert text == f"error: {said}\n"
    assert text.count("\n") == 1
    assert contents(out) == before
    first.send_signal(signal.SIGCONT)
    assert first.communicate(timeout=120)[0] == ""
    assert first.returncode == 0
    assert contents(out) == contents(material / "undisturbed")


def test_a_killed_predict_leaves_nothing_behind(material: Path, predict: Callable, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = predict(out)
    under_way(first, out)
    kill(first)
    recorded = (out / "records" / "run.jsonl").read_bytes()
    for name in ("masks/run/.000009.ab_12xyz.png", "records/.run.0a1b2c3d.jsonl", ".coco.ab_12xyz.json"):
        (out / name).touch()  # where it may have been in the middle of a file
    status, said = call("predict", *arguments(material, out))
    assert status == 0, said
    assert (out / "records" / "run.jsonl").read_bytes().startswith(recorded)
    assert contents(out) == contents(material / "undisturbed")


def test_a_folder_is_free_again_when_the_block_ends_however_it_ends(tmp_path: Path) -> None:
    def fail() -> None:
        with alone_in(tmp_path):
            with pytest.raises(BackdropError, match="another"), alone_in(tmp_path):
                pytest.fail("two in one folder")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    with alone_in(tmp_path):
        assert [path.name for path in tmp_path.iterdir()] == [LOCK]


@pytest.mark.slow
@pytest.mark.parametrize("after", [0.0, 2.0, 20.0])
def test_a_second_repro_waits_or_says_so_and_neither_harms_the_other(
    after: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second starts `after` seconds: while the first looks what to do, and while stages run."""
    project = new_project(tmp_path, {"footage.frames": 8})
    target = ("dvc", "repro", "stabilize")
    project(*target)
    expected = project.locked()
    for name in expected:
        project.forget(name)
    first = project.start(*target)
    time.sleep(after)
    second = project.start(*target)
    texts = [process.communicate(timeout=500)[0] for process in (first, second)]
    statuses = [process.returncode for process in (first, second)]
    with capsys.disabled():
        print(f"\nafter {after} s: {statuses}, the second: {texts[1].strip().splitlines()[-8:]}")
    assert 0 in statuses, texts
    for status, text in zip(statuses, texts, strict=True):
        if status:
            assert text.count("ERROR") == 1, text
            assert "Unable to acquire lock" in text or "is busy, it is being blocked by" in text, text
    assert project(*target)
    assert project.locked() == expected
    assert project.leftovers() == []
    assert project("dvc", "status", "--json", "stabilize").strip() == "{}"
