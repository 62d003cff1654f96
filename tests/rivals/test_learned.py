"""Networks from outside, and those that learn from one sequence."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from backdrop.errors import BackdropError
from backdrop.rivals.cells import scratch_folder
from backdrop.rivals.learned import cis, copy_paste, nsd
from backdrop.rivals.learned import dilate_unet as unet
from backdrop.rivals.learned import perturbed_gan as perturbed
from backdrop.rivals.learned.instance_model import instance_model
from backdrop.rivals.learned.person_segmenter import PERSON_SIZE, person_segmenter
from backdrop.rivals.learned.u2netp import u2netp
from backdrop.rivals.spent import spent_seconds
from tests.rivals.scenes import SIZE, PlainGround, material, quiet, settings, works

pytestmark = pytest.mark.usefixtures("one_thread")


def brightness_instances(path: Path, *, fixed: bool = False, score_rank: int = 1) -> Path:
    """An instance model: one instance of score .9, the pixels in which red exceeds blue; and labels."""
    shape = [3, 48, 80] if fixed else [3, "H", "W"]
    nodes = [
        helper.make_node("Gather", ["image", "zero"], ["red"], axis=0),
        helper.make_node("Gather", ["image", "two"], ["blue"], axis=0),
        helper.make_node("Greater", ["red", "blue"], ["more"]),
        helper.make_node("Cast", ["more"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "zero"], ["masks"]),
        helper.make_node("Identity", ["score"], ["scores"]),
        helper.make_node("Identity", ["label"], ["labels"]),
    ]
    constants = [
        helper.make_tensor("zero", TensorProto.INT64, [1], [0]),
        helper.make_tensor("two", TensorProto.INT64, [1], [2]),
        helper.make_tensor("score", TensorProto.FLOAT, [1] * score_rank, [0.9]),
        helper.make_tensor("label", TensorProto.INT64, [1], [17]),
    ]
    outs = [
        helper.make_tensor_value_info(name, kind, None)
        for name, kind in (("labels", TensorProto.INT64), ("scores", TensorProto.FLOAT), ("masks", TensorProto.FLOAT))
    ]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)
    graph = helper.make_graph(nodes, "instances", [image], outs, constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def found(model: Path | None, tmp_path: Path) -> list[np.ndarray]:
    return list(instance_model(material(PlainGround(2), tmp_path, model=None if model is None else str(model))))


@pytest.mark.parametrize("fixed", [False, True])
def test_an_onnx_instance_model_is_asked_for_all_instances(fixed: bool, tmp_path: Path) -> None:
    clip = PlainGround(2)
    masks = found(brightness_instances(tmp_path / "model.onnx", fixed=fixed), tmp_path)
    red = clip.frame(1)[..., 0].astype(int) > clip.frame(1)[..., 2]
    assert masks[1].max() == pytest.approx(0.9)
    assert (red == (masks[1] > 0.45)).mean() > (0.95 if fixed else 0.999)


def test_a_model_that_is_missing_damaged_or_of_another_kind_is_named(tmp_path: Path) -> None:
    with pytest.raises(BackdropError, match=r"name a checkpoint or ONNX file as instance_model in rivals/params\.yaml"):
        found(None, tmp_path)
    with pytest.raises(BackdropError, match=r"none\.pth does not exist: it should be the instance_model"):
        found(tmp_path / "none.pth", tmp_path)
    (tmp_path / "text.onnx").write_text("no model")
    with pytest.raises(BackdropError, match=r"text\.onnx is no ONNX model that can be run"):
        found(tmp_path / "text.onnx", tmp_path)
    (tmp_path / "text.pth").write_text("no model")
    with pytest.raises(BackdropError, match=r"text\.pth is no checkpoint of torchvision's Mask R-CNN"):
        found(tmp_path / "text.pth", tmp_path)
    other = brightness_instances(tmp_path / "other.onnx", score_rank=2)
    with pytest.raises(BackdropError, match=r"other\.onnx gives \(1,\), \(1, 1\), \(1, 1, 96, 160\): expected are"):
        found(other, tmp_path)


def test_a_checkpoint_of_another_network_is_named(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(BackdropError, match=r"other\.pth is no checkpoint .*: lacks 'roi_heads"):
        found(tmp_path / "other.pth", tmp_path)


@pytest.mark.slow
def test_a_checkpoint_of_torchvision_is_read_with_its_own_number_of_classes(tmp_path: Path) -> None:
    from torchvision.models.detection import maskrcnn_resnet50_fpn

    network = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=5)
    torch.save(network.state_dict(), tmp_path / "five.pth")
    masks = found(tmp_path / "five.pth", tmp_path)
    assert [mask.shape for mask in masks] == [(SIZE[1], SIZE[0])] * 2


def red_map(path: Path, shape: list[int]) -> cv2.dnn.Net:
    """A network whose map is how red a pixel is."""
    nodes = [
        helper.make_node("Slice", ["image", "zero", "one", "one"], ["red"]),
        helper.make_node("Reshape", ["red", "shape"], ["map"]),
    ]
    constants = [
        helper.make_tensor("zero", TensorProto.INT64, [1], [0]),
        helper.make_tensor("one", TensorProto.INT64, [1], [1]),
        helper.make_tensor("shape", TensorProto.INT64, [len(shape)], shape),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, *PERSON_SIZE])
    out = helper.make_tensor_value_info("map", TensorProto.FLOAT, shape)
    graph = helper.make_graph(nodes, "persons", [image], [out], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return cv2.dnn.readNetFromONNX(str(path))


def persons(model: Path | None, tmp_path: Path) -> list[np.ndarray]:
    return list(person_segmenter(material(PlainGround(2), tmp_path, model=None if model is None else str(model))))


def test_a_person_segmenter_gets_colors_from_0_to_1_and_its_map_comes_at_the_working_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tmp_path / "model.tflite"
    model.touch()
    network = red_map(tmp_path / "red.onnx", [1, 1, *PERSON_SIZE])
    monkeypatch.setattr(cv2.dnn, "readNetFromTFLite", lambda _: network)
    [first, _] = persons(model, tmp_path)
    red = material(PlainGround(2), tmp_path).image(0)[..., 0] / 255
    assert first.shape == red.shape
    assert np.abs(first - red).mean() < 0.01
    network = red_map(tmp_path / "flat.onnx", [1, PERSON_SIZE[0] * PERSON_SIZE[1]])
    with pytest.raises(BackdropError, match=r"model\.tflite gives no map of its input's size, but an array \(65536,\)"):
        persons(model, tmp_path)
    network = red_map(tmp_path / "small.onnx", [1, 1, 9, 9])
    with pytest.raises(BackdropError, match=r"model\.tflite takes no image of \(256, 256\): "):
        persons(model, tmp_path)


def test_a_person_segmenter_that_is_missing_or_damaged_is_named(tmp_path: Path) -> None:
    with pytest.raises(BackdropError, match=r"npm pack @mediapipe/selfie_segmentation.* in rivals/params\.yaml"):
        persons(None, tmp_path)
    with pytest.raises(BackdropError, match=r"none\.tflite does not exist: it should be the person_model"):
        persons(tmp_path / "none.tflite", tmp_path)
    (tmp_path / "cut.tflite").write_bytes(b"TFL3" * 9)
    with pytest.raises(BackdropError, match=r"OpenCV cannot read .*cut\.tflite as TFLite: "):
        persons(tmp_path / "cut.tflite", tmp_path)


def test_u2netp_finds_a_person_before_a_plain_ground(tmp_path: Path) -> None:
    assert works(u2netp, PlainGround(3), tmp_path) >= 0.5


def test_the_students_of_video_pca_work_where_the_camera_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"STUDENT_WIDTH": 80, "ITERATIONS": 120, "GENERATIONS": 1}.items():
        monkeypatch.setattr(unet, name, value)
    assert works(unet.dilate_unet, quiet(frames=16), tmp_path) >= 0.5


SHORT = [
    (unet, "dilate_unet", {"STUDENT_WIDTH": 48, "ITERATIONS": 2, "STUDENT_BATCH": 2}),
    (copy_paste, "copy_paste", {"PASTE_WIDTH": 48, "PASTE_ITERATIONS": 2, "PASTE_BATCH": 2, "EMPTY_VIEWS": 1}),
    (perturbed, "perturbed_gan", {"PERTURBED_ITERATIONS": 2, "PERTURBED_BATCH": 2, "LEARNER_ITERATIONS": 2}),
    (nsd, "nsd", {"SCENE_WIDTH": 48, "SCENE_ITERATIONS": 2, "SCENE_BATCH": 2}),
]
"""Rivals that learn, and with what they do it in a moment."""


@pytest.mark.parametrize(("module", "name", "changes"), SHORT, ids=[name for _, name, _ in SHORT])
def test_networks_that_are_trained_are_not_trained_again_and_their_time_counts(
    module: ModuleType, name: str, changes: dict[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key, value in changes.items():
        monkeypatch.setattr(module, key, value)
    clip, rival = quiet(frames=3), getattr(module, name)
    first = list(rival(material(clip, tmp_path)))
    assert spent_seconds(tmp_path) == 0
    again = list(rival(material(clip, tmp_path)))
    assert spent_seconds(tmp_path) > 0
    np.testing.assert_array_equal(first, again)


def learners(loss: torch.Tensor, *parts: torch.nn.Module) -> set[torch.nn.Module]:
    """Those of the parts that the loss teaches."""
    for part in parts:
        part.zero_grad(set_to_none=True)
    loss.backward()
    return {part for part in parts for p in part.parameters() if p.grad is not None}


def test_the_better_half_of_the_soft_masks_teaches() -> None:
    softs = [np.full((4, 6), value, np.float32) for value in (0.0, 0.9, 0.3, 0.6)]
    assert sorted(unet.better(softs)) == [1, 3]
    assert settings(Path()).model is None


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["static", "ptz"])
def test_cis_works_where_nothing_else_moves(mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"CIS_WIDTH": 80, "ROUNDS": 110}.items():
        monkeypatch.setattr(cis, name, value)
    assert works(cis.cis, quiet(mode, frames=20), tmp_path) >= 0.5


def test_cis_with_the_crf_goes_on_from_the_networks_of_cis(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"CIS_WIDTH": 48, "WARM_UP": 1, "ROUNDS": 1, "CIS_BATCH": 2}.items():
        monkeypatch.setattr(cis, name, value)
    clip = quiet(frames=3)
    soft = list(cis.cis(material(clip, tmp_path)))
    assert spent_seconds(tmp_path) == 0
    hard = list(cis.cis_crf(material(clip, tmp_path)))
    assert spent_seconds(tmp_path) > 0
    assert soft[1].shape == hard[1].shape == (SIZE[1], SIZE[0])
    assert set(np.unique(hard)) <= {0.0, 1.0}
    assert scratch_folder("cis_crf", "davis", "swing") == scratch_folder("cis", "davis", "swing")


def test_each_network_of_cis_learns_from_its_own_loss_alone() -> None:
    network, generator = cis.Separation(), torch.Generator().manual_seed(0)
    batch = cis.changed_at_random(torch.zeros(2, 3, 32, 48), torch.ones(2, 2, 32, 48), generator)
    for turn, learning in (
        ("warm_up", network.inpainter),
        ("inpainter", network.inpainter),
        ("masker", network.masker),
    ):
        assert learners(network(batch, turn), network.masker, network.inpainter) == {learning}


def test_the_context_says_nothing_of_a_part_that_moves_by_itself_and_all_of_one_that_moves_along() -> None:
    blind, part = torch.full((1, 1, 4, 4), 0.8), torch.zeros(1, 1, 4, 4)
    part[..., :2] = 1
    assert cis.context_share(blind, blind, part).item() > 0.95
    assert cis.context_share(0 * blind, blind, part).item() == 0
    assert cis.context_share(blind, blind, 0 * part).item() == 0


def test_the_side_at_the_border_is_the_background(monkeypatch: pytest.MonkeyPatch) -> None:
    network, level = cis.Separation().eval(), torch.full((1, 1, 32, 48), 3.0)
    level[..., 8:24, 12:36] = -3
    monkeypatch.setattr(network, "logits", lambda image, flow: level.expand(len(image), -1, -1, -1))
    soft = cis.subject_of(network, torch.zeros(3, 32, 48), torch.zeros(2, 32, 48))
    assert soft[16, 24] > 0.9
    assert soft[0].max() < 0.1


@pytest.mark.slow
def test_the_copy_paste_gan_works_where_the_camera_stands(tmp_path: Path) -> None:
    assert works(copy_paste.copy_paste, quiet(frames=24), tmp_path) >= 0.5


def test_nothing_is_copied_from_the_border_and_only_what_the_mask_holds() -> None:
    network, generator = copy_paste.CopyPaste(), torch.Generator().manual_seed(0)
    mask = network.mask(torch.zeros(1, 3, 32, 48))
    assert mask[..., : copy_paste.FRAME_BAND, :].max() == mask[..., -1].max() == 0
    assert mask[..., 16, 24].item() > 0
    shapes = copy_paste.random_shapes(torch.Size((32, 3, 32, 48)), generator)
    assert shapes[:, :, 0].max() == 0
    assert shapes.amax(dim=(1, 2, 3)).unique().tolist()[-1] == pytest.approx(1)
    source, ground = torch.ones(32, 3, 32, 48), torch.zeros(32, 3, 32, 48)
    picture = copy_paste.pasted(copy_paste.PasteBatch(source, ground, source, shapes), shapes)
    torch.testing.assert_close(picture[:, :1], shapes)


def test_judge_and_generator_learn_by_turns() -> None:
    network, plain = copy_paste.CopyPaste(), torch.zeros(2, 3, 32, 48)
    batch = copy_paste.PasteBatch(plain, plain, plain, torch.zeros(2, 1, 32, 48))
    for turn, learning in (("judge", network.judge), ("masker", network.masker)):
        assert learners(network(batch, turn), network.masker, network.judge) == {learning}


@pytest.mark.slow
def test_perturbed_generative_models_work_where_the_camera_stands(tmp_path: Path) -> None:
    # a scene on which none of its constants was set
    assert works(perturbed.perturbed_gan, quiet(frames=60, seed=3), tmp_path) >= 0.5


def test_generator_and_judge_of_perturbed_models_learn_by_turns() -> None:
    network, generator = perturbed.PerturbedGan((48, 32)), torch.Generator().manual_seed(0)
    plain = torch.zeros(perturbed.PERTURBED_BATCH, 3, 32, 48)
    for iteration, learning in ((0, network.judge), (1, network.layer), (2, network.judge)):
        loss = network(plain, plain, perturbed.draw_numbers(generator), iteration)
        assert learners(loss, network.judge, network.layer) == {learning}


def test_what_is_generated_is_shifted_with_its_mask_and_the_ground_is_not() -> None:
    network, generator = perturbed.PerturbedGan((48, 32)), torch.Generator().manual_seed(0)
    numbers = perturbed.draw_numbers(generator)
    ground = torch.rand((perturbed.PERTURBED_BATCH, 3, 32, 48), generator=generator)
    still = numbers._replace(shift=torch.zeros_like(numbers.shift))
    # an eighth of the width, in units of half images and of the largest shift
    right = numbers._replace(shift=torch.tensor([[-0.25 / perturbed.LARGEST_SHIFT[0], 0]]).expand(len(ground), 2))
    (before, mask), (after, moved) = (network.generate(ground, one) for one in (still, right))
    torch.testing.assert_close(moved[..., 6:], mask[..., :-6], atol=1e-4, rtol=0)
    assert moved[..., :5].max() < 1e-4
    torch.testing.assert_close(after[..., :5], ground[..., :5])
    own, taken = before - (1 - mask) * ground, after - (1 - moved) * ground
    torch.testing.assert_close(taken[..., 6:], own[..., :-6], atol=1e-4, rtol=0)


@pytest.mark.slow
def test_neural_scene_decomposition_works_where_the_camera_stands(tmp_path: Path) -> None:
    # a scene on which none of its constants was set
    assert works(nsd.nsd, quiet(frames=30, seed=3), tmp_path) >= 0.5


def test_the_box_starts_in_the_middle_and_masks_lie_in_it() -> None:
    network = nsd.Decomposition((96, 64))
    box = network.boxes(torch.rand(2, 3, 64, 96))
    torch.testing.assert_close(box, torch.tensor([[0, 0, 2 * nsd.FIRST_SIDE, 2 * nsd.FIRST_SIDE]] * 2))
    _, mask, _ = network(torch.rand(2, 3, 64, 96))
    assert mask[..., 32, 48].min() > 0.3
    assert mask[..., :8, :].max() == mask[..., :12].max() == 0


def test_drawing_comes_first_then_masks_and_then_the_box() -> None:
    images = torch.rand(4, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    step, network = nsd.redrawing(images, torch.zeros_like(images)), nsd.Decomposition((96, 64))

    def learned(iteration: int) -> tuple[bool, bool]:
        network.zero_grad()
        step(iteration, network, torch.Generator().manual_seed(0)).backward()
        last, box = network.draw[-1].weight.grad, network.box.weight.grad
        assert last[:3].abs().max() > 0
        return bool(last[3:].abs().max() > 0), box is not None and bool(box.abs().max() > 0)

    assert learned(0) == (False, False)
    assert learned(nsd.DRAWING_FIRST) == (True, False)
    assert learned(nsd.BOX_HELD) == (True, True)
