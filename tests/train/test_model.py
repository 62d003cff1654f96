"""The laws of the method: who learns from what, and the one-sample estimate is unbiased."""

from __future__ import annotations

import pytest
import torch

from backdrop.networks.spatial import expand, hole
from backdrop.train.losses import objective
from backdrop.train.model import Model, Schedule, without_gradient_to

WEIGHTS = ("alpha", "alpha_flow", "beta", "beta_flow", "gamma", "eta", "zeta", "autoencoder")
WEIGHTS += ("scale_prior", "offset_prior")
OFF = dict.fromkeys(WEIGHTS, 0.0)

# term -> (its weight, reaches p, reaches b, reaches S); METHOD's table of who learns from what
TABLE = {
    "bg": ("alpha", True, False, False),
    "bg_flow": ("alpha_flow", True, False, False),
    "fg": ("beta", False, True, True),
    "fg_flow": ("beta_flow", False, True, True),
    "phi": ("gamma", False, True, True),
    "mask": ("eta", False, False, True),
    "p": ("zeta", True, False, False),
    "auto": ("autoencoder", False, False, True),
    "scale": ("scale_prior", False, True, False),
    "offset": ("offset_prior", False, True, False),
}


def images(batch: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(batch, 3, 48, 64, generator=generator), torch.randn(batch, 3, 48, 64, generator=generator)


def gradients(model: Model, cells: int = 1) -> tuple[bool, bool, bool]:
    """Whether one backward pass of the whole objective reaches p, b and S's parameters."""
    held: dict[str, torch.Tensor] = {}
    torch.nn.init.normal_(model.detector.box_head.weight, std=0.01)  # at its start all offsets are 0: no gradient
    detect = model.detector.forward

    def spy(image: torch.Tensor):
        proposals = detect(image)
        for name in ("p", "box", "scale", "offset"):
            getattr(proposals, name).retain_grad()
            held[name] = getattr(proposals, name)
        return proposals

    model.detector.forward = spy  # type: ignore[method-assign]
    image, flow = images()
    step = model(image, flow, generator=torch.Generator().manual_seed(0))
    loss = objective(step.terms, model.loss)
    if not loss.requires_grad:
        return False, False, False
    loss.backward()

    def reached(*tensors: torch.Tensor | None) -> bool:
        return any(t is not None and bool(t.abs().max() > 0) for t in tensors)

    boxes = reached(held["box"].grad, held["scale"].grad, held["offset"].grad)
    return reached(held["p"].grad), boxes, reached(*(p.grad for p in model.synthesis.parameters()))


@pytest.mark.parametrize("draws", [{"cells": 1}, {"cells": 4, "baseline": "leave_one_out"}], ids=["one", "several"])
@pytest.mark.parametrize("term", TABLE)
def test_each_term_reaches_exactly_its_networks(make_model, term: str, draws: dict) -> None:
    weight, *expected = TABLE[term]
    changes = OFF | {weight: 1.0, "p_prior": "l2"} | draws
    if term == "phi":  # phi is skipped at weight 0, all others are computed
        changes["gamma"] = 1.0
    assert list(gradients(make_model(**changes))) == expected


def test_p_may_learn_from_the_reconstruction_alone(make_model) -> None:
    """000, and section 3.1 of 001, where the background is known: of L_fg and L_phi, and of L_bg nothing."""
    for term, reaches in {"bg": False, "bg_flow": False, "fg": True, "phi": True, "mask": False}.items():
        changes = OFF | {TABLE[term][0]: 1.0, "p_learns": "reconstruction"}
        assert gradients(make_model(**changes))[0] == reaches, term


@pytest.mark.parametrize(
    ("kind", "learns"), [("l1", False), ("l2", True), ("l2_selected", True), ("margin", True), ("none", False)]
)
def test_the_l1_prior_on_p_has_no_gradient_after_a_softmax(make_model, kind: str, learns: bool) -> None:
    model = make_model(**OFF | {"zeta": 1.0, "p_prior": kind})
    image, flow = images()
    step = model(image, flow, generator=torch.Generator().manual_seed(0))
    head = model.detector.head.weight
    gradient = torch.zeros(1)
    if step.terms["p"].requires_grad:
        (gradient,) = torch.autograd.grad(step.terms["p"], head)
    assert bool(gradient[0].abs().max() > 1e-7) == learns


def test_entangled_training_lets_every_loss_reach_p_and_b(make_model) -> None:
    model = make_model(**OFF | {"beta": 1.0, "disentangled": False})
    assert gradients(model) == (True, True, True)
    model = make_model(**OFF | {"alpha": 1.0, "disentangled": False})
    p, b, s = gradients(model)
    assert p
    assert b
    assert not s


def test_entangled_background_loss_moves_boxes_to_where_the_error_is(make_model) -> None:
    """Its gradient reaches the box through the hole as well; were it by the area alone, boxes could but shrink."""
    model = make_model(**OFF | {"alpha": 1.0, "disentangled": False, "grid": 1})
    step = model(*images())
    (gradient,) = torch.autograd.grad(step.terms["bg"], step.proposals.box)
    assert gradient[..., :2].abs().min() > 0


def test_one_box_for_the_image_learns_from_both_losses(make_model) -> None:
    for weight in ("alpha", "beta"):
        model = make_model(**OFF | {weight: 1.0, "disentangled": False, "grid": 1})
        assert gradients(model)[1]
        assert not model.detector.head.weight.grad.any(), "p is 1 whatever the head says"


def test_boxes_do_not_learn_while_they_are_fixed(make_model) -> None:
    for schedule in (Schedule(offsets_learn=False, sizes_learn=False), Schedule(synthesis=False)):
        model = make_model(disentangled=False)
        objective(model(*images(), schedule=schedule).terms, model.loss).backward()
        assert model.detector.box_head.weight.grad is None
        assert model.detector.head.weight.grad.any()


def test_the_sampled_losses_are_unbiased(make_model) -> None:
    """Averaged over many draws, every importance-weighted term and its gradient on p equals the sum over cells."""
    image, flow = images(1)
    exact = make_model(kind="exact").eval()
    # head weights are tiny at the start; spread p, so that the weights p/q matter
    with torch.no_grad():
        exact.detector.head.weight.mul_(300)
    drawn = make_model(kind="importance", cells=1, epsilon=0.005).eval()
    drawn.load_state_dict(exact.state_dict())
    whole = exact(image, flow).terms
    (expected,) = torch.autograd.grad(whole["bg"], exact.detector.head.weight)
    count = 64
    sums = dict.fromkeys(("bg", "bg_flow", "fg", "phi"), 0.0)
    squares = dict.fromkeys(sums, 0.0)
    gradient = torch.zeros_like(expected)
    rounds = 12
    many = image.expand(count, -1, -1, -1), flow.expand(count, -1, -1, -1)
    for seed in range(rounds):
        terms = drawn(*many, generator=torch.Generator().manual_seed(seed)).terms
        gradient += torch.autograd.grad(terms["bg"], drawn.detector.head.weight, retain_graph=True)[0] / rounds
        for name in sums:
            sums[name] += terms[name].item() / rounds
            squares[name] += terms[name].item() ** 2 / rounds
    for name, mean in sums.items():
        error = (max(squares[name] - mean**2, 0) / (rounds - 1)) ** 0.5
        assert abs(mean - whole[name].item()) < 4 * error + 1e-5, name
    cosine = torch.cosine_similarity(gradient.flatten(), expected.flatten(), dim=0)
    assert cosine > 0.9


def test_inpainters_stay_bit_identical_through_joint_training(make_model) -> None:
    model = make_model()
    before = {k: v.clone() for k, v in model.state_dict().items() if k.startswith(("inpainter", "features"))}
    assert any("running_mean" in key for key in before)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    image, flow = images()
    for _ in range(2):
        model.train()  # as Fabric and users do: must not wake batch norm
        optimizer.zero_grad()
        objective(model(image, flow).terms, model.loss).backward()
        optimizer.step()
    assert all(torch.equal(model.state_dict()[key], value) for key, value in before.items())


def test_frozen_boxes_do_not_learn(make_model) -> None:
    model = make_model(**OFF | {"beta": 1.0, "gamma": 1.0})
    image, flow = images()
    fixed = Schedule(offsets_learn=False, sizes_learn=False)
    step = model(image, flow, schedule=fixed, generator=torch.Generator().manual_seed(0))
    head = model.detector.box_head.weight
    (gradient,) = torch.autograd.grad(objective(step.terms, model.loss), head, allow_unused=True)
    assert gradient is None or not gradient.any()


@pytest.mark.parametrize("sizes", [False, True])
def test_boxes_may_learn_to_move_and_not_to_grow(make_model, sizes: bool) -> None:
    model = make_model(**OFF | {"beta": 1.0, "gamma": 1.0})
    image, flow = images()
    schedule = Schedule(offsets_learn=not sizes, sizes_learn=sizes)
    step = model(image, flow, schedule=schedule, generator=torch.Generator().manual_seed(0))
    (gradient,) = torch.autograd.grad(objective(step.terms, model.loss), model.detector.box_head.weight)
    assert gradient[:2].any() == sizes  # the first two outputs are the size, the others the offset
    assert gradient[2:].any() != sizes


def test_the_detector_phase_does_not_run_the_synthesis_network(make_model) -> None:
    model = make_model()
    image, flow = images()
    step = model(image, flow, schedule=Schedule(synthesis=False))
    assert step.mask is None
    assert set(step.terms) == {"bg", "bg_flow", "p"}


def test_invalid_flow_does_not_count(make_model) -> None:
    model = make_model()
    image, flow = images()
    generator = torch.Generator().manual_seed(0)
    step = model(image, flow, torch.zeros(len(image), dtype=torch.bool), generator=generator)
    assert step.terms["bg_flow"] == 0


def test_without_gradient_to_keeps_the_value_and_the_other_gradients() -> None:
    x = torch.randn(5, dtype=torch.float64, requires_grad=True)
    w = torch.randn(5, dtype=torch.float64, requires_grad=True)
    middle = x * 2
    loss = (middle * w).square().sum()
    changed = without_gradient_to(loss, middle)
    assert changed == loss
    (expected,) = torch.autograd.grad(loss, w, retain_graph=True)
    left, cut = torch.autograd.grad(changed, (w, x))
    assert torch.equal(left, expected)
    assert not cut.any()


def test_autoencoding_reaches_the_synthesis_network_alone(make_model) -> None:
    model = make_model()
    image, _ = images()
    model.autoencode(image, torch.tensor([[0.0, 0.0, 0.8, 0.8]] * 3)).backward()
    assert any(p.grad is not None for p in model.synthesis.parameters())
    assert all(p.grad is None for p in model.detector.parameters())


def test_a_known_background_counts_inside_the_hole_only(make_model) -> None:
    """Where B is the image itself, every cell's loss is 0; a difference counts for the cells whose hole shows it."""
    model = make_model(kind="exact", alpha_flow=0.0)
    model.inpaint_unknown = False
    image, _ = images(1)
    everywhere = torch.ones(1, 1, *image.shape[2:], dtype=torch.bool)
    step = model(image, schedule=Schedule(synthesis=False), known=(image, everywhere))
    assert step.terms["bg"] == 0
    behind = image.clone()
    behind[..., :12, :16] += 3  # the corner of the first cells
    step = model(image, schedule=Schedule(synthesis=False), known=(behind, everywhere))
    assert step.terms["bg"] < 0
    (gradient,) = torch.autograd.grad(step.terms["bg"], step.proposals.p)
    grid = gradient.reshape(8, 8)
    assert grid[1, 1] < 0
    assert not grid[5:, 5:].any()


@pytest.mark.parametrize("whole", [True, False])
def test_what_a_box_leaves_out_costs_where_the_whole_background_is_known(make_model, whole: bool) -> None:
    model = make_model(alpha_flow=0.0, whole_background=whole)
    model.inpaint_unknown = False
    image, _ = images(2)
    seen = torch.ones(2, 1, *image.shape[2:], dtype=torch.bool)
    seen[..., :4, :] = False
    step = model(image, known=(image + 2, seen), generator=torch.Generator().manual_seed(0))
    outside = (hole(expand(step.box, 0.15), (image.shape[2], image.shape[3])) == 0) & seen
    expected = (image + 2 if whole else image).expand_as(step.composed)
    assert torch.allclose(step.composed.masked_select(outside), expected.masked_select(outside), atol=1e-5)
    nowhere = ~seen.expand_as(image) & (step.mask == 0)
    assert torch.allclose(step.composed[nowhere], image[nowhere], atol=1e-5)


@pytest.mark.parametrize(
    ("start", "lambda_", "acts"),
    [
        ({"mask_start": 0.01, "window": 4}, 0.005, True),
        ({"scale": (0.2, 0.4)}, 0.005, True),
        ({"scale": (0.2, 0.4), "divide_mask": True, "mask_start": None}, 0.005, False),
    ],
    ids=["presets", "default", "divided"],
)
def test_lambda_acts_on_masks_that_begin_below_it(make_model, start: dict, lambda_: float, acts: bool) -> None:
    """2022, Fig. 10. Masks that are divided by their maximum begin above any such lambda: its value says nothing."""
    gradients = []
    for threshold in (lambda_, 0.00001):
        model = make_model(**start)
        model.lambda_ = threshold
        step = model(*images(), generator=torch.Generator().manual_seed(0))
        below = step.mask.mean(dim=(1, 2, 3)) < lambda_
        assert below.all() if acts else not below.any()
        gradients.append(torch.autograd.grad(step.terms["mask"], model.synthesis.out.bias)[0])
    assert torch.equal(gradients[0], -gradients[1] if acts else gradients[1])
    assert gradients[0][3] != 0


@pytest.mark.parametrize("hole_only", [True, False])
def test_outside_the_hole_stands_the_image_or_what_the_inpainter_makes_of_it(make_model, hole_only: bool) -> None:
    model = make_model()
    model.hole_only = hole_only
    image, flow = images(1)
    step = model(image, flow, schedule=Schedule(synthesis=False), generator=torch.Generator().manual_seed(0))
    erased = hole(expand(step.box, model.loss.hole_margin), (image.shape[2], image.shape[3]))
    outside = (erased == 0).expand_as(image)
    assert outside.any()
    assert torch.equal(step.background[outside], image[outside]) == hole_only
    assert torch.equal(step.background, model.inpainter(image, erased)) != hole_only


def test_a_box_half_outside_is_not_worth_less_where_its_area_ends_at_the_image(make_model) -> None:
    image, _ = images(1)
    terms = []
    for outside in (True, False):
        model = make_model(kind="exact", alpha_flow=0.0, area_outside=outside)
        with torch.no_grad():
            model.detector.box_head.bias[2:] = 9.0  # all boxes to the lower right: most leave the image
        terms.append(model(image, schedule=Schedule(synthesis=False)).terms["bg"].item())
    assert terms[1] < 1.2 * terms[0] < 0


def test_unknown_pixels_are_inpainted_or_say_nothing(make_model) -> None:
    image, _ = images(1)
    nowhere = torch.zeros(1, 1, *image.shape[2:], dtype=torch.bool)
    for inpaint_unknown in (True, False):
        model = make_model(kind="exact", alpha_flow=0.0)
        model.inpaint_unknown = inpaint_unknown
        plain = model(image, schedule=Schedule(synthesis=False)).terms["bg"]
        known = model(image, schedule=Schedule(synthesis=False), known=(image + 9, nowhere)).terms["bg"]
        assert plain < 0
        if inpaint_unknown:
            assert known < 0
        else:
            assert known == 0
