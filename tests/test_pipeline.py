"""The pipeline from end to end: through DVC on the embedded footage, and its stages on real frames and real videos."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
import yaml

from backdrop.io.frame_archive import FrameArchive
from backdrop.io.masks import MaskArchive, Predictions
from backdrop.motion.flow_field import FlowArchive, magnitude
from backdrop.params import compose_params
from backdrop.video.encode import encode_video
from tests.graph import library_files
from tests.handmade_run import scene
from tests.project_copy import Project, new_project
from tests.small_pipeline import ROOT, commands, run_stage, small_values, stage_names

FIELDS = {"J_mean", "J_recall", "J_decay", "F_mean", "F_recall", "F_decay", "precision", "recall", "threshold"}
CLIPS = {"train", "val", "test"}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """After `git init`, a commit, and the first `dvc repro`."""
    project = new_project(tmp_path_factory.mktemp("pipeline"), {"lambda": 0.5})
    project.said = project("dvc", "repro")
    project("git", "add", "-A")
    project("git", "commit", "-qm", "Run")
    return project


def downstream(first: str) -> set[str]:
    """The stages that need an output of `first`, and itself."""
    spec = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    outs = {
        name: {next(iter(o)) if isinstance(o, dict) else o for key in ("outs", "metrics") for o in stage.get(key, [])}
        for name, stage in spec.items()
    }
    reached, before = {first}, set()
    while reached != before:
        before = set(reached)
        made = {out for name in reached for out in outs[name]}
        reached |= {name for name, stage in spec.items() if made & set(stage["deps"])}
    return reached


# -------------------------------------------------------------------------------------------- through DVC
# These tests share one project. Each leaves it as it found it; the experiment puts all back at its end.


def test_repro_runs_every_stage(project: Project) -> None:
    assert project.ran(project.said) == set(stage_names())
    assert project("git", "status", "--porcelain") == ""
    committed = project("git", "ls-files").split()
    assert {"dvc.lock", "metrics/scores.json", "metrics/per_frame.csv", "metrics/per_sequence.csv"} <= set(committed)
    made = {name for name in committed if name.startswith(("data/", "models/", "runs/"))}
    assert {Path(name).name for name in made} <= {"README.md", ".gitignore"}


def test_scores_hold_what_they_promise(project: Project) -> None:
    scores = project.scores()
    assert scores["frames_scored"] == 12
    assert scores["frames_without_prediction"] == 0
    methods = ("method", "method_raw", "method_best_threshold", "d_and_s", "d_and_s_raw")
    results = [scores[key] for key in methods]
    results += [scores["baselines"][key] for key in ("flow_threshold", "mog2")]
    for result in results:
        assert set(result) >= FIELDS
        assert all(np.isfinite(result[key]) for key in FIELDS)
    for result in ("method", "d_and_s"):
        assert 0 <= scores[result]["mAP50"] <= 1
        assert 0 <= scores[result]["centre_hit"] <= 1
    per_frame = pd.read_csv(project.root / "metrics" / "per_frame.csv")
    assert (per_frame.groupby("result").size() == 12).all()
    per_sequence = pd.read_csv(project.root / "metrics" / "per_sequence.csv")
    assert set(per_sequence["result"]) == set(per_frame["result"])
    facts = json.loads((project.root / "metrics" / "provenance.json").read_text())
    assert facts["git_dirty"] is False


def test_every_sequence_has_a_contact_sheet(project: Project) -> None:
    index = pd.read_csv(project.root / "data" / "frames" / "index.csv")
    assert set(index["split"]) == CLIPS
    for row in index[index["split"] != "train"].itertuples():
        sheets = list((project.root / "metrics" / "plots").rglob(f"{row.sequence}*.png"))
        assert sheets, row.sequence
        image = cv2.imread(str(sheets[0]))
        assert image.std() > 5


def test_masks_are_delivered_as_archives_and_as_folders(project: Project) -> None:
    name = pd.read_csv(project.root / "data" / "frames" / "index.csv").query("split == 'test'")["sequence"].item()
    frames = FrameArchive(project.root / "data" / "frames" / f"{name}.zip")
    masks = MaskArchive(project.root / "data" / "masks" / f"{name}.zip")
    folder = project.root / "data" / "davis" / "Annotations" / name
    assert [path.stem for path in sorted(folder.iterdir())] == frames.names
    for t, path in enumerate(sorted(folder.iterdir())):
        image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        assert np.array_equal(image, masks.gray(t))
        assert image.shape == frames.size[::-1]
        assert set(np.unique(image)) <= {0, 255}


def test_repro_again_has_nothing_to_do(project: Project) -> None:
    said = project("dvc", "repro")
    assert project.ran(said) == set()
    assert "up to date" in said
    assert project("git", "status", "--porcelain") == ""


def test_lambda_makes_training_and_the_report_stale_and_nothing_else(project: Project) -> None:
    path = project.root / "params.yaml"
    before = path.read_text()
    path.write_text(before.replace("lambda: 0.5", "lambda: 0.4"))
    try:
        # a stage is stale by its own keys and files; what follows becomes stale when training has run
        # (the report shows every parameter)
        assert set(json.loads(project("dvc", "status", "--json"))) == {"train", "report"}
    finally:
        path.write_text(before)


def test_an_edit_of_the_crf_reruns_what_uses_the_crf(project: Project) -> None:
    users = {name for name in stage_names() if "backdrop/crf/dense.py" in library_files(ROOT / commands(name)[0][1])}
    assert "refine" in users
    path = project.root / "backdrop" / "crf" / "dense.py"
    before = path.read_text()
    path.write_text(before + "\n# The same, with a comment.\n")
    try:
        stale = {name.split("@")[0] for name in json.loads(project("dvc", "status", "--json"))}
        assert stale == users
    finally:
        path.write_text(before)


def test_an_experiment_with_another_lambda_reruns_training_and_what_follows(project: Project) -> None:
    weights = project.root / "models" / "joint" / "model.safetensors"
    before = weights.read_bytes()
    try:
        said = project("dvc", "exp", "run", "-S", "lambda=0.001")
        check_experiment(project, said, weights.read_bytes() != before)
    finally:
        project("git", "reset", "-q", "--hard")
        project("dvc", "checkout", "-q")
    assert weights.read_bytes() == before


def check_experiment(project: Project, said: str, changed: bool) -> None:
    assert project.ran(said) == downstream("train")
    params = yaml.safe_load((project.root / "params.yaml").read_text())
    assert params["lambda"] == 0.001
    assert params["train"]["iterations"] == 2, "the rest is as conf/ has it"
    assert changed, "the weights of D and S"
    shown = project("dvc", "metrics", "diff", "--all")
    for result in ("method", "method_raw", "d_and_s", "d_and_s_raw"):
        assert re.search(rf"\b{result}\.[JF]_mean", shown), result
    assert "lambda" in project("dvc", "exp", "show", "--csv")
    assert "train" in project("dvc", "dag")


@pytest.mark.slow
@pytest.mark.parametrize("year", [2020, 2021, 2022])
def test_the_presets_of_the_papers_run_end_to_end(year: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The paper's own networks, losses and sampling; only footage, iterations and batch are small."""
    small = ["size=[96,64]", "frames=8", "train=1", "val=1", "test=1"]
    few = ["inpainter.iterations=2", "inpainter.batch=2", "train.iterations=2", "train.batch=2", "train.size=[96,64]"]
    rest = ["synthesis.crop=128", "student.rounds=0", "compute.workers=1", "compute.device=cpu"]
    overrides = [f"paper=p{year}", *(f"footage.{key}" for key in small), *few, *rest]
    compose_params(overrides, tmp_path / "params.yaml", ROOT / "conf")
    for name in stage_names():
        run_stage(name, tmp_path, monkeypatch)
    scores = json.loads((tmp_path / "metrics" / "scores.json").read_text())
    assert scores["frames_scored"] == 8
    assert scores["method"]["J_mean"] == scores["d_and_s"]["J_mean"], "no student: the papers' method ships"
    if year == 2020:
        assert scores["method"]["J_mean"] == scores["method_raw"]["J_mean"], "2020 has no CRF"


# --------------------------------------------------------------------------------- real frames and videos


def run_all(folder: Path, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    (folder / "params.yaml").write_text(yaml.safe_dump(small_values(changes)))
    for name in stage_names():
        run_stage(name, folder, monkeypatch)
    return json.loads((folder / "metrics" / "scores.json").read_text())


def test_davis_from_image_folders(real_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    davis = real_data / "data" / "DAVIS2016"
    for kind in ("JPEGImages", "Annotations"):
        (tmp_path / "DAVIS" / kind / "480p").mkdir(parents=True)
        (tmp_path / "DAVIS" / kind / "480p" / "parkour").symlink_to(davis / kind / "480p" / "parkour")
    data = {"layout": "davis", "root": "DAVIS", "size": [160, 96], "limit": 8, "protocol": "self"}
    scores = run_all(tmp_path, {f"data.{key}": value for key, value in data.items()}, monkeypatch)
    assert scores["protocol"] == "drop_first_last"
    assert scores["frames_scored"] == 6
    assert scores["sequences"] == 1
    assert set(scores["method"]) >= FIELDS | {"mAP50", "centre_hit"}
    per_frame = pd.read_csv(tmp_path / "metrics" / "per_frame.csv")
    assert sorted(set(per_frame["frame"])) == [1, 2, 3, 4, 5, 6]
    truth = FrameArchive(tmp_path / "data" / "frames" / "parkour.zip").mask(0)
    assert truth is not None
    assert truth.shape == (480, 854), "truth keeps its own resolution"
    assert len(list((tmp_path / "data" / "davis" / "Annotations" / "parkour").glob("*.png"))) == 8
    assert contrast(tmp_path, "parkour") > 2


def contrast(folder: Path, name: str) -> float:
    """Mean speed on the subject over that elsewhere: stabilized flow shows the runner, not the camera."""
    frames = FrameArchive(folder / "data" / "frames" / f"{name}.zip")
    flow = FlowArchive(folder / "data" / "flow" / f"{name}.zip")
    inside, outside = [], []
    for t in range(len(frames)):
        truth = frames.mask(t)
        assert truth is not None
        subject = cv2.resize(truth, frames.size, interpolation=cv2.INTER_AREA) > 127
        speed = magnitude(*flow.read(t))
        inside.append(speed[subject].mean())
        outside.append(speed[~subject].mean())
    return float(np.mean(inside) / np.mean(outside))


def test_plain_videos_without_truth(real_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    videos = real_data / "data" / "videos"
    data = {"layout": "videos", "root": str(videos), "size": [160, 96], "limit": 4, "protocol": "self"}
    scores = run_all(tmp_path, {f"data.{key}": value for key, value in data.items()}, monkeypatch)
    assert scores["frames_scored"] == 0
    assert scores["frames_without_truth"] == 16
    assert "method" not in scores
    index = pd.read_csv(tmp_path / "data" / "frames" / "index.csv")
    assert sorted(index["sequence"]) == ["dance-twirl", "dog", "parkour", "zoomInZoomOut"]
    assert (index["masks"] == 0).all()
    for name in index["sequence"]:
        assert len(MaskArchive(tmp_path / "data" / "masks" / f"{name}.zip")) == 4
        assert Predictions(tmp_path / "data" / "predictions" / f"{name}.zip").box.shape == (4, 4)
        assert list((tmp_path / "metrics" / "plots").rglob(f"{name}*.png"))


def test_of_long_videos_some_frames_train_and_all_get_masks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`data.budget`, from the videos to the report; one label, of a frame that is drawn."""
    (tmp_path / "videos" / "labels").mkdir(parents=True)
    counts = {"long": 110, "short": 50}
    for seed, (name, count) in enumerate(counts.items()):
        images, _ = scene(count, seed)
        encode_video(tmp_path / "videos" / f"{name}.mp4", images, 25.0)
    changes = {"data.layout": "videos", "data.root": "videos", "data.budget": 100, "data.protocol": "self"}
    monkeypatch.chdir(tmp_path)
    label = "video,frame,label,left,top,right,bottom\nlong,60,nothing,,,,\n"
    (tmp_path / "videos" / "labels" / "a.csv").write_text(label)
    scores = run_all(tmp_path, changes, monkeypatch)
    assert scores["frames_without_truth"] == sum(counts.values())
    drawn = pd.read_csv(tmp_path / "data" / "frames" / "index.csv")
    assert drawn["frames"].sum() <= 100
    assert drawn["source"].nunique() == 2
    for name, count in counts.items():
        assert len(MaskArchive(tmp_path / "data" / "masks" / f"{name}.zip")) == count
        assert len(list((tmp_path / "data" / "davis" / "Annotations" / name).glob("*.png"))) == count
    assert {path.name for path in (tmp_path / "data" / "masks").glob("*.zip")} == {f"{name}.zip" for name in counts}
    report = (tmp_path / "metrics" / "report.html").read_text()
    assert all(name in report for name in counts)
