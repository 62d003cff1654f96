"""The benchmark of the long video, for a minute: stopped by Ctrl-C and by SIGKILL, it goes on, in bounded memory."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from backdrop.video.encode import encode_video
from tests.handmade_run import scene
from tests.small_pipeline import ROOT, environment, write_model


@pytest.mark.slow
def test_a_long_video_is_stopped_twice_and_every_frame_segmented_once(tmp_path: Path) -> None:
    encode_video(tmp_path / "clip.mp4", scene(12)[0])
    model, out = write_model(tmp_path / "model"), tmp_path / "long.json"
    options = ["--model", model, "--minutes", 1, "--fps", 15, "--work", tmp_path / "work", "--out", out, "--whole"]
    words = [sys.executable, "-m", "benchmarks.long_video", tmp_path / "clip.mp4", *options]
    subprocess.run([*map(str, words)], cwd=ROOT, env=environment(), check=True, capture_output=True, timeout=900)
    found = json.loads(out.read_text())
    assert [run["status"] for run in found["runs"]] == [130, -signal.SIGKILL, 0]
    assert sum(run["frames"] for run in found["runs"]) == found["masks"] == found["frames"] == 900
    assert found["each_frame_once"]
    assert found["same_records"]
    assert found["peak_GB"] < 2
