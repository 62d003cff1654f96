"""Models: what they say of themselves, that they work from any place, and that no run overwrites the last one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from backdrop.app import commands
from backdrop.app.page.text import page_header
from backdrop.app.project import models
from backdrop.app.project.models import crf_of, keep_model, kept_models, model_lines, note_of, threshold_of
from backdrop.app.segmenter import Segmenter
from backdrop.errors import BackdropError, WriteError
from backdrop.io.masks import write_threshold
from tests.backdrop_command import call
from tests.handmade_run import make_run, scene
from tests.small_pipeline import contents, write_model, write_params

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project after a run on three videos, one of them for testing alone."""
    folder = tmp_path / "skiing"
    folder.mkdir()
    make_run(folder / "data", {"run1": "train", "run2": "all", "run3": "test"}, frames=4)
    write_params(folder, {"data.layout": "videos", "data.root": "videos", "data.protocol": "self", "crf.iterations": 2})
    (folder / "metrics").mkdir()
    scores = {"frames_scored": 4, "sequences": 1, "method": {"J_mean": 0.614}}
    (folder / "metrics" / "scores.json").write_text(json.dumps(scores))
    write_threshold(folder / "data" / "predictions", 0.35, "pseudo-masks")
    write_threshold(folder / "data" / "masks", 0.25, "pseudo-masks")
    write_model(folder / "models" / "segmenter")
    return folder


def moved(project: Path, tmp_path: Path) -> Path:
    """The kept model in another place, its project gone."""
    kept = keep_model(project)
    assert kept is not None
    target = tmp_path / "elsewhere" / "a model"
    shutil.copytree(kept, target)
    shutil.rmtree(project)
    return target


def test_a_model_says_what_it_was_trained_on(project: Path) -> None:
    note = note_of(project / "models" / "segmenter")
    assert note is not None
    assert note.footage == ["run1", "run2"]
    assert note.words().startswith(f"trained {note.made} on 2 videos of skiing (run1, run2; 8 frames)")
    assert note.words().endswith(", mean J 0.61 on that project's frames with truth")
    many = note.model_copy(update={"footage": list("abcde"), "j": None, "prior": "u2netp"})
    assert many.words().endswith(
        "5 videos of skiing (a, b, c and 2 more; 8 frames), with u2netp as a model from outside"
    )


def test_a_kept_model_needs_nothing_but_its_folder(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = moved(project, tmp_path)
    monkeypatch.chdir(tmp_path)
    segmenter = Segmenter.load(model, "cpu")
    assert threshold_of(segmenter, model, refined=False) == 0.35
    assert threshold_of(segmenter, model, refined=True) == 0.25
    crf = crf_of(model, None)
    assert crf is not None
    assert crf.iterations == 2
    Image.fromarray(scene(1)[0][0]).save(tmp_path / "photo.png")
    status, said = call("predict", tmp_path / "photo.png", "-o", tmp_path / "out", "--model", model)
    assert status == 0
    assert "(threshold 0.25)" in said
    assert "on 2 videos of skiing (run1, run2; 8 frames)" in said
    assert "trained" not in call("predict", tmp_path / "photo.png", "-o", tmp_path / "out", "--model", model, "-q")[1]


def test_a_run_does_not_overwrite_the_last_model(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = keep_model(project)
    assert first is not None
    before = contents(first)
    assert keep_model(project) == first, "the same weights are kept once"
    weights = project / "models" / "segmenter" / "model.safetensors"
    weights.write_bytes(weights.read_bytes() + b" ")
    monkeypatch.setattr(models, "_stamp", lambda: "2999-01-01_000000")
    second = keep_model(project)
    assert second == project / "models" / "kept" / "skiing_2999-01-01_000000"
    assert contents(first) == before
    assert [path for path, _ in kept_models(project)] == [first, second]
    assert (project / "models" / "kept" / ".gitignore").read_text() == "*\n"


def test_keys_of_another_version_do_not_hide_what_a_model_is(project: Path) -> None:
    with (project / "params.yaml").open("a") as stream:
        stream.write("preset: new\n")
    assert note_of(project / "models" / "segmenter") is not None
    for text in ("", "[]", "data: 3", "{"):
        (project / "params.yaml").write_text(text)
        assert note_of(project / "models" / "segmenter") is None


def test_another_threshold_of_the_same_weights_is_noted(project: Path) -> None:
    keep_model(project)
    write_threshold(project / "data" / "masks", 0.4, "validation")
    kept = keep_model(project)
    assert kept is not None
    note = note_of(kept)
    assert note is not None
    assert note.threshold_crf == 0.4


def test_models_are_listed_with_what_they_are(project: Path, tmp_path: Path) -> None:
    kept = keep_model(project)
    assert kept is not None
    broken = shutil.copytree(kept, kept.with_name("skiing_2999-01-01_000000"))
    (broken / "note.json").write_text("{")
    status, said = call("models", project)
    assert status == 0
    shipped, second, third = said.splitlines()
    assert shipped.startswith(f"{project / 'models' / 'segmenter'}: trained ")
    assert second.startswith(f"{kept}: trained ")
    assert third == f"{broken}: it is not known on what"
    (tmp_path / "nothing").mkdir()
    status, said = call("models", tmp_path / "nothing")
    assert (status, len(said.splitlines())) == (1, 1)
    assert "`backdrop train` trains one" in said


def test_without_a_model_or_a_known_project_nothing_is_kept(project: Path, tmp_path: Path) -> None:
    (project / "params.yaml").unlink()
    assert keep_model(project) is None
    assert keep_model(tmp_path) is None
    assert not (project / "models" / "kept").exists()
    assert model_lines(project) == [f"{project / 'models' / 'segmenter'}: it is not known on what"]


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"project": 3}', "\udcff"])
def test_a_damaged_note_is_one_line(text: str, project: Path, tmp_path: Path) -> None:
    model = moved(project, tmp_path)
    (model / "note.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    Image.fromarray(scene(1)[0][0]).save(tmp_path / "photo.png")
    status, said = call("predict", tmp_path / "photo.png", "-o", tmp_path / "out", "--model", model)
    assert status == 1
    assert len(said.splitlines()) == 1
    assert "note.json is damaged" in said
    assert "delete this file" in said


def test_a_full_disk_leaves_no_half_model(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(models, "copy_files", full)
    with pytest.raises(WriteError, match="No space left"):
        keep_model(project)
    assert [path.name for path in (project / "models" / "kept").iterdir()] == [".gitignore"]


def test_params_that_are_not_there_are_named(project: Path, tmp_path: Path) -> None:
    with pytest.raises(BackdropError, match="--params nowhere.yaml is not here"):
        crf_of(project / "models" / "segmenter", Path("nowhere.yaml"))


def test_a_model_of_the_embedded_footage_warns_on_other_footage(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from backdrop.app.sources import find_sources

    write_params(project)  # of the embedded footage
    own = project / "data" / "footage"
    own.mkdir()
    for folder in (own, tmp_path):
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folder / "one.png")
    kept = keep_model(project)
    assert kept is not None
    for model in (project / "models" / "segmenter", kept):
        commands.tell_model(model, find_sources([tmp_path / "one.png"]))
        said = capsys.readouterr().err
        assert said.startswith(f"warning: {model} was trained ")
        assert "on the embedded footage (2 rendered clips; 8 frames)" in said
        assert len(said.splitlines()) == 1
        commands.tell_model(model, find_sources([own / "one.png"]))
        assert not capsys.readouterr().err.startswith("warning")


def test_the_page_says_what_the_model_was_trained_on() -> None:
    assert "The model was trained on &lt;b&gt; &amp; c." in page_header("trained on <b> & c")
    assert "The model" not in page_header("")
