"""The instance CRF: each term and each update against a count over all labelings; templates, learning, videos."""

from __future__ import annotations

import itertools
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from backdrop.crf.instance.both_ways import TOLD_CHUNK, joined_ways, told_apart
from backdrop.crf.instance.composed import LoneSubject, Placing, compose_frame, random_placing, worsened_soft
from backdrop.crf.instance.energy import InstanceTerms, InstanceWeights, instance_mean_field, instance_unary
from backdrop.crf.instance.labels import InstanceDetections, instance_labels, instance_terms
from backdrop.crf.instance.learning import InstanceExample, learn_instances, matched_loss
from backdrop.crf.instance.shipped import load_instance_crf, save_instance_crf
from backdrop.crf.instance.templates import fitting_shapes, shape_templates
from backdrop.crf.instance.tracking import Divided, FrameToTell, SubjectTracker
from backdrop.errors import BackdropError
from backdrop.measures import jaccard

SIZE = (60, 100)
NO_BOXES = np.zeros((0, 4))


def tiny_terms(seed: int, kernel: torch.Tensor | None = None) -> InstanceTerms:
    """2 x 3 pixels and two detections, in float64."""
    rng = torch.Generator().manual_seed(seed)
    soft, *maps = (torch.rand(*size, generator=rng, dtype=torch.float64) for size in ((2, 3), *[(2, 2, 3)] * 3))
    operator = None
    if kernel is not None:
        pairs = kernel

        def operator(values: torch.Tensor) -> torch.Tensor:
            return (values.flatten(1) @ pairs).view_as(values)

    inside = torch.tensor([[[1, 1, 0], [1, 1, 0]], [[0, 1, 1], [0, 1, 1]]], dtype=torch.float64)
    return InstanceTerms(soft, inside, torch.tensor([0.9, 0.6], dtype=torch.float64), *maps, bilateral=operator)


def pair_weights(seed: int) -> torch.Tensor:
    values = torch.rand(6, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.triu(values, 1) + torch.triu(values, 1).T


def test_the_unary_is_the_equation() -> None:
    terms, w = tiny_terms(0), InstanceWeights(box=2.0, everywhere=0.3, shape=1.5, past=0.7, look=0.4)
    found = instance_unary(terms, w)
    assert terms.shapes is not None
    assert terms.past is not None
    assert terms.looks is not None
    for k, (y, x) in itertools.product((0, 1), itertools.product((0, 1), (0, 1, 2))):
        q = float(terms.soft[y, x])
        psi = 2.0 * q * float(terms.scores[k]) * float(terms.inside[k, y, x]) + 0.3 * q
        psi += q * (1.5 * terms.shapes[k, y, x] + 0.7 * terms.past[k, y, x] + 0.4 * terms.looks[k, y, x])
        assert float(found[k + 1, y, x]) == pytest.approx(-np.log(float(psi)))
    assert float(found[0, 1, 2]) == pytest.approx(-np.log(4.9 * (1 - float(terms.soft[1, 2]))))


def test_an_update_is_the_expectation_over_all_labelings() -> None:
    """log Q(v_i = l) = -E[energy | v_i = l] + const, the others as the Q before says: 3^5 labelings of them."""
    kernel = pair_weights(1)
    terms, weights = tiny_terms(1, kernel), InstanceWeights(gaussian=0.0, bilateral=0.8)
    unary = instance_unary(terms, weights).flatten(1)
    before = instance_mean_field(terms, weights, 0).exp().flatten(1)
    after = instance_mean_field(terms, weights, 1).flatten(1)
    for i in range(6):
        others = [j for j in range(6) if j != i]
        expected = torch.zeros(3, dtype=torch.float64)
        for label in range(3):
            for chosen in itertools.product(range(3), repeat=5):
                v = dict(zip(others, chosen, strict=True)) | {i: label}
                energy = sum(float(unary[v[j], j]) for j in range(6))
                energy += 0.8 * sum(float(kernel[a, b]) for a in range(6) for b in range(a) if v[a] != v[b])
                expected[label] -= energy * float(torch.stack([before[v[j], j] for j in others]).prod())
        assert torch.allclose(after[:, i], expected.log_softmax(dim=0))


def test_gradients_are_those_of_finite_differences() -> None:
    terms, truth = tiny_terms(2, pair_weights(2)), torch.zeros(2, 2, 3, dtype=torch.bool)
    truth[0, :, 0], truth[1, :, 1:] = True, True

    def loss(*values: torch.Tensor) -> torch.Tensor:
        return matched_loss(instance_mean_field(terms, InstanceWeights(*values), 3), truth)

    start = [torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (1.0, 0.2, 1.3, 0.5, 0.7, 0.1, 0.9)]
    assert torch.autograd.gradcheck(loss, start)


def test_the_loss_asks_for_no_numbering() -> None:
    log_q = torch.rand(3, 4, 5).log_softmax(dim=0)
    truth = torch.zeros(2, 4, 5, dtype=torch.bool)
    truth[0, :, :2], truth[1, :, 3:] = True, True
    assert float(matched_loss(log_q, truth)) == pytest.approx(float(matched_loss(log_q, truth.flip(0))))
    assert float(matched_loss(log_q[[0, 2, 1]], truth)) == pytest.approx(float(matched_loss(log_q, truth)))
    assert matched_loss(log_q, truth[:0]).isnan()


# -------------------------------------------------------------------------------------------- shapes


def ellipse(center: tuple[int, int], radii: tuple[int, int]) -> np.ndarray:
    mask = np.zeros(SIZE, np.uint8)
    cv2.ellipse(mask, center, radii, 0, 0, 360, 1, -1)
    return mask > 0


def triangle(left: int) -> np.ndarray:
    mask = np.zeros(SIZE, np.uint8)
    cv2.fillPoly(mask, [np.array([[left, 50], [left + 30, 50], [left + 15, 10]])], 1)
    return mask > 0


def test_templates_are_the_shapes_that_there_are() -> None:
    """At any place and size; and the one that fits is found in a box."""
    masks = [ellipse((30 + 4 * k, 30), (10 + k, 20)) for k in range(4)] + [triangle(10 * k) for k in range(4)]
    found = shape_templates(masks, 2)
    corners = sorted(found[:, 1].sum(axis=1))  # the triangle's upper edge is a point
    assert corners[1] > 2 * corners[0]
    boxes = torch.tensor([[-0.4, 0.0, 0.6, 1.33]])
    for mask, wide in ((triangle(15), False), (ellipse((30, 30), (15, 20)), True)):
        shape = fitting_shapes(torch.from_numpy(mask.astype(np.float32)), boxes, torch.from_numpy(found))[0]
        assert bool(shape[13, 24] > 0.5) == wide, "below the upper edge, beside the middle"
        assert float(shape[:, 60:].max()) == 0, "outside of the box"
    with pytest.raises(BackdropError, match="no mask holds one"):
        shape_templates([np.zeros(SIZE, bool)], 2)


def test_a_shape_tells_who_is_where_boxes_do_not() -> None:
    """Boxes overlap by half. An upright triangle is in front of a bar; without shapes the middle is nobody's."""
    front, bar = triangle(35), np.zeros(SIZE, bool)
    bar[30:50, 20:50] = True
    mask, gray = front | bar, np.full((*SIZE, 3), 90, np.uint8)
    boxes = np.array([[0.0, 0.0, 0.6, 1.34], [-0.3, 0.33, 0.6, 0.67]])
    templates = shape_templates([triangle(5), np.ones(SIZE, bool)], 2)
    weights = InstanceWeights(box=1.0, everywhere=0.1, shape=2.0, gaussian=0.0, bilateral=0.0)
    soft, crf = mask.astype(np.float32), {"weights": weights, "templates": templates}
    labels = instance_labels(gray, soft, mask, InstanceDetections(boxes, np.array([0.8, 0.8])), **crf)
    assert np.array_equal(labels > 0, mask)
    assert jaccard(labels == 1, front) > 0.75
    alone = instance_labels(gray, soft, mask, InstanceDetections(boxes[:1], np.ones(1)), **crf)
    assert np.array_equal(alone, mask.astype(np.uint8))


# ------------------------------------------------------------------------------------- composing, learning


def painted(mask: np.ndarray, color: tuple[int, int, int]) -> LoneSubject:
    image = np.full((*SIZE, 3), 60, np.uint8)
    image[mask] = color
    return LoneSubject(image, mask)


def test_who_is_in_front_covers() -> None:
    red, blue = painted(ellipse((40, 30), (12, 20)), (220, 30, 30)), painted(ellipse((60, 30), (12, 20)), (30, 30, 220))
    for front in (True, False):
        found = compose_frame(red, [(blue, Placing(50, 50, 41, front))])
        assert not found.masks.all(axis=0).any()
        assert np.array_equal(found.masks.any(axis=0), found.whole.any(axis=0))
        both = found.whole.all(axis=0)
        assert both.sum() > 100
        assert found.masks[1][both].all() == front
        assert abs(int(np.median(found.image[both][:, 0])) - (30 if front else 220)) < 20
    with pytest.raises(BackdropError, match="empty mask"):
        compose_frame(red, [(painted(np.zeros(SIZE, bool), (0, 0, 0)), Placing(50, 50, 40))])


def test_learning_finds_what_tells_subjects_apart() -> None:
    """Boxes say nothing, as both are the same; what was carried along is right."""
    rng, examples = np.random.default_rng(0), []
    box = np.array([[0.0, 0.0, 1.9, 1.9]] * 2)
    for _ in range(4):
        red = painted(ellipse((40, 30), (12, 20)), (90, 90, 90))
        found = compose_frame(red, [(red, random_placing(red.mask, rng, (0.5, 0.9)))])
        soft = worsened_soft(found.masks.any(axis=0), rng)
        assert soft.min() >= 0
        assert soft.max() <= 1
        assert jaccard(soft > 0.5, found.masks.any(axis=0)) > 0.7
        detections = InstanceDetections(box, np.ones(2), found.masks.astype(np.float32))
        terms = instance_terms(found.image, soft, detections, None, (True, False))
        examples.append(InstanceExample(terms, torch.from_numpy(box), torch.from_numpy(found.masks)))
    start = InstanceWeights(box=1.0, everywhere=0.5, shape=0.0, past=0.1, look=0.0, gaussian=0.5, bilateral=0.0)
    learned = learn_instances(examples, start, np.ones((1, 24, 24)), 3, steps=40, rate=0.1)
    assert np.mean(learned.losses[-5:]) < 0.6 * learned.losses[0]
    assert learned.weights.past / learned.weights.box > 2 * start.past / start.box
    assert learned.weights.shape == 0
    with pytest.raises(BackdropError, match="two detections"):
        learn_instances([examples[0]._replace(boxes=torch.zeros(1, 4))], start, np.ones((1, 24, 24)), 3)


# -------------------------------------------------------------------------------------------- videos


Meeting = list[tuple[FrameToTell, np.ndarray, np.ndarray]]


def meeting(frames: range) -> Meeting:
    """A red disk goes right before a blue one that goes left; at 0 they touch most. With what is seen of each."""
    rng = np.random.default_rng(3)
    ground, grain = (
        cv2.GaussianBlur(rng.integers(*span, (120, 200, 3)).astype(np.float32), (0, 0), 1.5)
        for span in ((0, 180), (-90, 90))
    )
    found = []
    for t in frames:
        image, disks = ground.copy(), []
        for color, move in (((40, 60, 200), -5 * t), ((200, 60, 40), 5 * t)):
            disk = cv2.ellipse(np.zeros((120, 200), np.uint8), (100 + move, 60), (18, 28), 0, 0, 360, 1, -1) > 0
            image[disk] = (np.array(color) + np.roll(grain, move, axis=1))[disk]
            disks.append(disk)
        blue, red = disks
        mask = red | blue
        frame = FrameToTell(image.clip(0, 255).astype(np.uint8), mask.astype(np.float32), mask, NO_BOXES)
        found.append((frame, red, blue & ~red))
    return found


def of_colors(
    frames: list[tuple[FrameToTell, np.ndarray, np.ndarray]], labels: list[np.ndarray]
) -> list[tuple[int, ...]]:
    """Per frame the numbers of red and of blue, where their masks fit; 0 where none does."""
    rows = []
    for (_, *masks), found in zip(frames, labels, strict=True):
        fits = [[n for n in np.unique(found) if n and jaccard(found == n, mask) > 0.7] for mask in masks]
        rows.append(tuple(int(fit[0]) if fit else 0 for fit in fits))
    return rows


def test_subjects_keep_their_numbers_through_each_other() -> None:
    frames = meeting(range(-9, 10))
    tracker = SubjectTracker(2)
    labels = [tracker.divide_next(frame).labels for frame, *_ in frames]
    rows = of_colors(frames, labels)
    red, blue = rows[0]
    assert {red, blue} == {1, 2}
    seen = [k for k, t in enumerate(range(-9, 10)) if abs(t) > 2]
    assert [rows[k] for k in seen] == [(red, blue)] * len(seen)
    for (frame, *_), found in zip(frames, labels, strict=True):
        assert np.array_equal(found > 0, frame.mask), "every pixel of the mask is somebody's"


def test_those_who_part_later_are_two_from_the_start() -> None:
    frames = meeting(range(2, 14))
    forward = SubjectTracker(2).divide_next(frames[0][0])
    assert forward.labels.max() == 1, "they touch, and nobody knows them"
    rows = of_colors(frames, list(told_apart((frame for frame, *_ in frames), SubjectTracker(2))))
    assert rows == [rows[0]] * len(rows)
    assert 0 not in rows[0]


def test_a_stop_between_chunks_changes_nothing() -> None:
    frames = meeting(range(-TOLD_CHUNK, TOLD_CHUNK + 3))
    whole = list(told_apart((frame for frame, *_ in frames), SubjectTracker(2)))
    tracker = SubjectTracker(2)
    for (frame, *_), labels in zip(frames[:TOLD_CHUNK], whole[:TOLD_CHUNK], strict=True):
        tracker.follow(frame.image, labels)
    rest = list(told_apart((frame for frame, *_ in frames[TOLD_CHUNK:]), tracker))
    assert all(np.array_equal(one, other) for one, other in zip(whole[TOLD_CHUNK:], rest, strict=True))


def test_one_who_breaks_for_a_frame_is_one() -> None:
    """A mask that is in two in a single frame starts no division of the frames beside it."""
    disk = ellipse((50, 30), (20, 25))
    broken = disk.copy()
    broken[:, 48:52] = False
    image = np.full((*SIZE, 3), 90, np.uint8)
    masks = [disk] * 4 + [broken] + [disk] * 4
    frames = [FrameToTell(image, mask.astype(np.float32), mask, NO_BOXES) for mask in masks]
    labels = list(told_apart(iter(frames), SubjectTracker(2)))
    assert [len(np.unique(one)) - 1 for one in labels] == [1] * 4 + [2] + [1] * 4
    assert len({int(one.max()) for one in (*labels[:4], *labels[5:])}) == 1


def test_boxes_of_the_frame_divide_strangers() -> None:
    mask = ellipse((40, 30), (12, 20)) | ellipse((60, 30), (12, 20))
    boxes = np.array([[-0.2, 0.0, 0.5, 1.4], [0.2, 0.0, 0.5, 1.4]])
    frame = FrameToTell(np.full((*SIZE, 3), 90, np.uint8), mask.astype(np.float32), mask, boxes)
    assert SubjectTracker(2).divide_next(frame._replace(boxes=boxes[:1])).labels.max() == 1
    assert SubjectTracker(1).divide_next(frame).labels.max() == 1
    labels = SubjectTracker(2).divide_next(frame).labels
    assert (labels[30, 32], labels[30, 68]) == (1, 2) or (labels[30, 32], labels[30, 68]) == (2, 1)
    nobody = frame._replace(mask=np.zeros(SIZE, bool))
    assert SubjectTracker(2).divide_next(nobody).labels.max() == 0


def test_the_better_of_two_divisions_counts() -> None:
    one = np.zeros((4, 8), np.uint8)
    two = one.copy()
    one[:, 1:7], two[:, 1:4], two[:, 4:7] = 1, 5, 9
    assert set(np.unique(joined_ways([Divided(one, 0)], [Divided(two, 3)])[0])) == {0, 1, 2}
    assert np.array_equal(joined_ways([Divided(two, 3)], [Divided(one, 0)])[0], two)
    other = one.copy()
    other[:, 1:3], other[:, 3:7] = 1, 2
    for doubt, cut in ((1, 3), (5, 4)):
        found = joined_ways([Divided(two, 3)], [Divided(other, doubt)])[0]
        assert (found[0, cut - 1], found[0, cut]) == (5, 9), "the surer one, with the forward numbers"


# -------------------------------------------------------------------------------------------- bad input


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    terms, weights = tiny_terms(0), InstanceWeights()
    with pytest.raises(BackdropError, match="soft mask"):
        instance_mean_field(terms._replace(soft=terms.soft * float("nan")), weights, 1)
    with pytest.raises(BackdropError, match="shapes are of"):
        instance_mean_field(terms._replace(shapes=terms.inside[:1]), weights, 1)
    with pytest.raises(BackdropError, match="looks hold values"):
        instance_mean_field(terms._replace(looks=terms.inside * 2), weights, 1)
    with pytest.raises(BackdropError, match="scores"):
        instance_mean_field(terms._replace(scores=terms.scores + 1), weights, 1)
    path = tmp_path / "weights.safetensors"
    with pytest.raises(BackdropError, match="not the weights of the instance CRF"):
        load_instance_crf(path)
    path.write_bytes(b"nothing")
    with pytest.raises(BackdropError, match="not the weights of the instance CRF"):
        load_instance_crf(path)


def test_weights_are_read_as_they_were_written(tmp_path: Path) -> None:
    weights, templates = InstanceWeights(box=0.5, past=2.0), np.random.default_rng(0).random((3, 24, 24), np.float32)
    save_instance_crf(tmp_path / "w.safetensors", weights, templates)
    found = load_instance_crf(tmp_path / "w.safetensors")
    assert found[0] == pytest.approx(weights, rel=1e-6)
    assert np.array_equal(found[1], templates)
    shipped, shapes = load_instance_crf()
    assert min(shipped) >= 0
    assert shapes.shape[1:] == (24, 24)
