"""The script that measures a GPU, in small; and processor and GPU agree where there is one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.gpu import chosen, disagreement
from tests.tiny import ROOT, environment


@pytest.mark.slow
def test_the_script_fills_its_table(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "benchmarks.gpu", "--small", "--out", str(tmp_path / "gpu.json")]
    done = subprocess.run(words, cwd=ROOT, env=environment(), check=True, capture_output=True, text=True, timeout=900)
    result = json.loads((tmp_path / "gpu.json").read_text())
    assert len(result["rows"]) >= 10
    assert all(row["ms"] > 0 for row in result["rows"])
    assert all(row["of_peak"] > 0 for row in result["rows"] if "compiled" not in row["arrangement"])
    assert set(result["operations"]) == {"joint", "inpainter"}
    assert done.stdout.count("\n| ") == len(result["rows"]) + 1, "the head, and a line a row"
    assert "schedule_hours" not in result, "nothing is said of the papers' scale by small steps"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_processor_and_gpu_agree() -> None:
    assert disagreement(chosen(True), torch.device("cuda")) < 1e-3
