"""The run on a GPU: what is lacking is named, what takes too long is stopped, what was done is kept."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file

from backdrop.video.decode import decode_video, probe
from benchmarks.gpu_run import STUDENTS, collect, film, missing, predict, run_until
from tests.small_pipeline import ROOT, environment


def test_packages_that_are_missing_are_named() -> None:
    assert missing(["cv2.ximgproc", "json", "no_such_package", "cv2.no_such_part"]) == [
        "no_such_package",
        "cv2.no_such_part",
    ]


def test_the_outcome_of_a_command_is_told(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert run_until([sys.executable, "-c", "print('well')"], 60, log) == "done"
    failing = "import sys; print('no module', file=sys.stderr); sys.exit(3)"
    assert run_until([sys.executable, "-c", failing], 60, log) == "failed with status 3: no module"
    assert run_until([sys.executable, "-c", ""], -1, log) == "no time"


def test_a_command_without_time_is_stopped_with_all_that_it_started(tmp_path: Path) -> None:
    stubborn = "import time, pathlib, os, signal; signal.signal(signal.SIGINT, signal.SIG_IGN); "
    child = stubborn + "pathlib.Path('pid').write_text(str(os.getpid())); time.sleep(600)"
    parent = f"import subprocess, os; os.chdir({str(tmp_path)!r}); subprocess.run({[sys.executable, '-c', child]!r})"
    begun = time.monotonic()
    assert run_until([sys.executable, "-c", parent], 3, tmp_path / "log") == "no time"
    assert time.monotonic() - begun < 30
    pid = int((tmp_path / "pid").read_text())
    with suppress(psutil.NoSuchProcess):  # or it waits for whoever adopted it to take note of its end
        assert psutil.Process(pid).status() == psutil.STATUS_ZOMBIE or psutil.Process(pid).wait(10) is None


def done(work: Path, name: str, when: int) -> None:
    folder = work / "gpu" / name
    (folder / "models" / "segmenter").mkdir(parents=True)
    state = {"student.w": torch.arange(4.0), "detector.w": torch.zeros(10_000)}
    save_file(state, folder / "models" / "segmenter" / "model.safetensors")
    (folder / "result.json").write_text(json.dumps({"sequence": name}))
    os.utime(folder / "result.json", (when, when))


def test_what_was_done_is_kept_in_few_files(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    assert collect(tmp_path / "work", tmp_path / "out") == []
    names = [f"s{k}" for k in range(STUDENTS + 2)]
    for k, name in enumerate(reversed(names)):
        done(tmp_path / "work", name, 1000 + k)
    (tmp_path / "work" / "gpu" / "unfinished").mkdir()
    found = collect(tmp_path / "work", tmp_path / "out")
    assert [one["sequence"] for one in found] == names[::-1], "in the order in which they were done"
    kept = sorted((tmp_path / "out").iterdir())
    assert len(kept) == STUDENTS + 1 <= 6, "with run.json and gpu.json eight"
    state = load_file(tmp_path / "out" / f"{names[-1]}.safetensors")
    assert list(state) == ["student.w"]
    assert state["student.w"].dtype == torch.float16


def test_a_film_is_as_long_as_asked_for(tmp_path: Path) -> None:
    paths = [tmp_path / f"{k}.png" for k in range(3)]
    for k, path in enumerate(paths):
        cv2.imwrite(str(path), np.full((48, 96, 3), 40 + 60 * k, np.uint8))
    path = film(paths, tmp_path / "film.mp4", 8)
    assert (probe(path).width, probe(path).height) == (1280, 720)
    shades = [float(image.mean()) for _, _, image in decode_video(path)]
    assert np.allclose(shades, [40, 100, 160, 160, 100, 40, 40, 100], atol=6)


def test_without_a_model_there_is_no_inference(tmp_path: Path) -> None:
    assert predict(tmp_path, tmp_path, 60, 10) == {"outcome": "no sequence was done"}


@pytest.mark.slow
def test_the_whole_run_in_small(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for kind, suffix in (("JPEGImages", "jpg"), ("Annotations", "png")):
        folder = tmp_path / "data" / kind / "480p" / "walk"
        folder.mkdir(parents=True)
        ground = rng.integers(60, 200, (96, 160, 3), dtype=np.uint8)
        for t in range(8):
            image = ground.copy() if kind == "JPEGImages" else np.zeros((96, 160), np.uint8)
            image[30:60, 20 + 6 * t : 45 + 6 * t] = 255
            cv2.imwrite(str(folder / f"{t:05d}.{suffix}"), image)
    words = ["-m", "benchmarks.gpu_run", str(tmp_path / "data"), str(tmp_path / "out"), "--small", "--seconds", "900"]
    subprocess.run([sys.executable, *words], cwd=ROOT, env=environment(), check=True, timeout=1000)
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert run["missing"] == []
    assert run["steps"] == run["training"] == run["predict"]["outcome"] == "done"
    assert run["predict"]["fps"] > 0
    assert list(run["J"]) == ["walk"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "gpu.json",
        "run.json",
        "sequences.json",
        "walk.safetensors",
    ]
