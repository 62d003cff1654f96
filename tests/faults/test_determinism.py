"""The same seed gives the same scores, another seed others; what is recorded of a run is what it was.

That stages give the same bytes with any number of processes is in `test_frames`, `test_homography`, `test_flow`,
`test_crf` and `test_evaluation`; that a crash changes nothing in `test_training` and `test_student`.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
import subprocess
from pathlib import Path

import pytest
import yaml

from backdrop.score.provenance import PACKAGES, provenance
from tests.small_pipeline import environment, run_stage, small_values, stage_names

RESULTS = ("metrics/scores.json", "metrics/per_frame.csv", "metrics/per_sequence.csv")


def run(folder: Path, monkeypatch: pytest.MonkeyPatch, **changes: object) -> dict[str, bytes]:
    """A fresh small project through all stages; the files that hold its results."""
    folder.mkdir()
    changes = {key.replace("__", "."): value for key, value in changes.items()}
    (folder / "params.yaml").write_text(yaml.safe_dump(small_values(changes)))
    for name in stage_names():
        run_stage(name, folder, monkeypatch)
    weights = sorted(folder.glob("models/*/model.safetensors"))
    assert len(weights) == 4
    masks = sorted(folder.glob("data/masks/*.zip"))
    return {name: (folder / name).read_bytes() for name in RESULTS} | {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in (*weights, *masks)
    }


@pytest.mark.slow
def test_a_seed_tells_the_whole_result_whatever_the_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run(tmp_path / "first", monkeypatch)
    assert run(tmp_path / "again", monkeypatch) == first
    assert run(tmp_path / "workers", monkeypatch, compute__workers=2) == first
    other = run(tmp_path / "other", monkeypatch, seed=1)
    assert other.keys() == first.keys()
    for name in first:
        if name.startswith("models/"):
            assert other[name] != first[name], name
    assert other["metrics/per_frame.csv"] != first["metrics/per_frame.csv"]
    facts = [json.loads((tmp_path / name / "metrics" / "provenance.json").read_text()) for name in ("first", "other")]
    assert [fact["seed"] for fact in facts] == [0, 1]
    assert facts[0]["data_index_sha256"] == facts[1]["data_index_sha256"], "the same footage"


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clean repository with a file in each place that acts on results, and an index of frames."""
    folder = tmp_path / "repository"
    for name in ("backdrop/a.py", "stages/s.py", "conf/config.yaml", "params.yaml", "README.md", "data/index.csv"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"{name}\n")
    (folder / ".gitignore").write_text("/data/\n")
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "Start"]):
        subprocess.run(["git", *command], cwd=folder, env=environment(), check=True)
    monkeypatch.chdir(folder)
    return folder


def facts() -> dict:
    return provenance(Path("data/index.csv"), 7, "cpu")


@pytest.mark.usefixtures("repository")
def test_provenance_names_seed_revision_device_versions_and_data() -> None:
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    assert facts() == {
        "git_revision": head,
        "git_dirty": False,
        "seed": 7,
        "data_index_sha256": hashlib.sha256(b"data/index.csv\n").hexdigest(),
        "device": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
    }
    assert facts()["device"]


@pytest.mark.parametrize("name", ["backdrop/a.py", "stages/s.py", "conf/config.yaml", "params.yaml"])
@pytest.mark.parametrize("how", ["edited", "staged", "removed"])
def test_a_change_of_what_acts_on_results_is_dirty(name: str, how: str, repository: Path) -> None:
    assert facts()["git_dirty"] is False
    if how == "removed":
        (repository / name).unlink()
    else:
        (repository / name).write_text("planted\n")
    if how == "staged":
        subprocess.run(["git", "add", name], check=True)
    assert facts()["git_dirty"] is True
    subprocess.run(["git", "reset", "-q", "--hard"], check=True)
    assert facts()["git_dirty"] is False


def test_what_does_not_act_on_results_is_not_dirty_and_data_have_a_hash(repository: Path) -> None:
    before = facts()
    (repository / "README.md").write_text("other\n")
    assert facts() == before
    (repository / "data" / "index.csv").write_text("other\n")
    assert facts()["data_index_sha256"] != before["data_index_sha256"]
    assert facts() | {"data_index_sha256": ""} == before | {"data_index_sha256": ""}


def test_outside_of_a_repository_there_is_no_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "index.csv").write_text("x")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert facts()["git_revision"] is None
    assert facts()["git_dirty"] is None
