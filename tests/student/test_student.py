from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from backdrop.app.segmenter import Segmenter
from backdrop.errors import BackdropError
from backdrop.io.frame_archive import FrameArchive
from backdrop.io.masks import MaskArchive
from backdrop.motion.blobs import near_subject, subject_component
from backdrop.motion.neighbors import StabilizedSequence
from backdrop.networks.detector import Detector
from backdrop.networks.model_folders import save_network
from backdrop.networks.student import Student, StudentNetwork, sharpen
from backdrop.networks.synthesis import SynthesisNetwork
from backdrop.params import Params
from backdrop.render.clip import Clip
from backdrop.student import rounds
from backdrop.student.cues import frame_cues
from backdrop.student.cues.cue import Cue
from backdrop.student.cues.motion import fitted_network
from backdrop.student.fusion import fuse
from backdrop.student.labels import applied
from backdrop.student.parameters import StudentFolders, StudentParams, StudentStage
from backdrop.student.pseudo_masks import Work, agreement, allocate, box_window, leave_out, pseudo_mask
from backdrop.student.rounds import SelfTraining, keep_pseudo_masks, pass_through
from backdrop.student.targets import IGNORED, augment, student_loss, targets, to_normal
from tests.handmade_run import make_run
from tests.student.clips import Rendered, exact, jaccard


@pytest.fixture
def joint(tmp_path: Path, params: Params) -> Path:
    """A model folder as stage train writes it, with random weights."""
    torch.manual_seed(0)
    synthesis = params.synthesis.model_copy(update={"crop": 32, "hidden": (20, 6), "decoder": [8, 16]})
    parts = {"detector": Detector(params.detector, "none"), "synthesis": SynthesisNetwork(synthesis, "none")}
    sections = {"detector": params.detector.model_dump(mode="json"), "synthesis": synthesis.model_dump(mode="json")}
    save_network(tmp_path / "joint", parts, {"size": [64, 48], **sections})
    return tmp_path / "joint"


@pytest.fixture
def small(params: Params) -> StudentParams:
    changes = {"size": (64, 40), "channels": [8, 12], "iterations": 6, "batch": 4, "neighbors": 4, "spacing": 2}
    return params.student.model_copy(update={**changes, "rounds": 2, "checkpoint_every": 2, "log_every": 2})


def training(
    root: Path, joint: Path, params: Params, student: StudentParams, tag: str = "a", people: Path | None = None
) -> SelfTraining:
    compute = params.compute.model_copy(update={"workers": 1, "device": "cpu", "precision": "32"})
    stage = StudentStage.model_validate(
        {"data.labels": "none", "data.path": "none", "student": student, "stabilize": params.stabilize}
        | {"seed": 3, "compute": compute}
    )
    data = (root / name for name in ("frames", "homographies"))
    return SelfTraining(stage, StudentFolders(joint, *data, root / f"log_{tag}", root / f"runs_{tag}", people))


def test_a_crash_changes_nothing(
    tmp_path: Path, joint: Path, params: Params, small: StudentParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(tmp_path, {"one": "train", "two": "all", "three": "test"}, frames=8)
    training(tmp_path, joint, params, small, "whole").run(tmp_path / "whole")
    losses = 0

    def crash(logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        nonlocal losses
        losses += 1
        if losses == 10:  # in the second round
            raise KeyboardInterrupt
        return student_loss(logits, label)

    monkeypatch.setattr(rounds, "student_loss", crash)
    with pytest.raises(KeyboardInterrupt):
        training(tmp_path, joint, params, small, "cut").run(tmp_path / "cut")
    assert not (tmp_path / "cut").exists()
    training(tmp_path, joint, params, small, "cut").run(tmp_path / "cut")
    assert losses < 10 + 6
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not any((tmp_path / "runs_cut").iterdir())
    curves = json.loads((tmp_path / "log_cut" / "metrics.json").read_text())
    assert curves["round"] == 2


def test_model_folder_holds_all_three_and_segments_single_images(
    tmp_path: Path, joint: Path, params: Params, small: StudentParams
) -> None:
    make_run(tmp_path, {"one": "train"}, frames=6)
    training(tmp_path, joint, params, small).run(tmp_path / "segmenter", tmp_path / "pseudo_masks")
    assert [path.name for path in (tmp_path / "pseudo_masks").iterdir()] == ["one.zip"]
    segmenter, plain = Segmenter.load(tmp_path / "segmenter", "cpu"), Segmenter.load(joint, "cpu")
    assert segmenter.student is not None
    assert plain.student is None
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (50 + 2 * i, 70, 3), dtype=np.uint8) for i in range(4)]
    together, alone = segmenter.predict_batch(images), [segmenter.predict(image) for image in images[::-1]][::-1]
    for image, one, other, before in zip(images, together, alone, plain.predict_batch(images), strict=True):
        assert one.mask.shape == image.shape[:2]
        assert one.mask.dtype == np.float32
        assert 0 <= one.mask.min() <= one.mask.max() <= 1
        assert np.allclose(one.mask, other.mask, atol=1e-4)
        assert np.allclose(one.p, before.p, atol=1e-5)


def test_detector_is_the_same_with_and_without_student(
    tmp_path: Path, joint: Path, params: Params, small: StudentParams
) -> None:
    make_run(tmp_path, {"one": "train"}, frames=4)
    training(tmp_path, joint, params, small.model_copy(update={"rounds": 1})).run(tmp_path / "segmenter")
    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    with_student, without = (
        Segmenter.load(folder, "cpu").detect([image]) for folder in (tmp_path / "segmenter", joint)
    )
    for ours, theirs in zip(with_student, without, strict=True):
        assert np.allclose(ours, theirs, atol=1e-6)


@pytest.mark.parametrize(("broken", "said"), [("loss", "the loss term bce is nan"), ("gradient", "the gradient of ")])
def test_what_is_no_number_stops_before_the_weights_take_it(
    broken: str,
    said: str,
    tmp_path: Path,
    joint: Path,
    params: Params,
    small: StudentParams,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make_run(tmp_path, {"one": "train"}, frames=6)
    losses = []

    def spoiled(logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        losses.append(1)
        loss = student_loss(logits, label)
        if len(losses) < 4:  # iterations 0 to 2 are good; every second one is logged and saved
            return loss
        return loss * float("nan") if broken == "loss" else loss + (logits - logits.detach()).sqrt().sum()

    monkeypatch.setattr(rounds, "student_loss", spoiled)
    run = training(tmp_path, joint, params, small)
    with pytest.raises(BackdropError, match=rf"iteration 3: {said}.*; .*one:\d"):
        run.run(tmp_path / "segmenter")
    assert all(torch.isfinite(value).all() for value in run.network.state_dict().values())
    state = run.checkpoints.load()
    assert state is not None
    assert state["iteration"] == 2


def test_an_estep_gone_wrong_does_not_undo_the_student(small: StudentParams) -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (40, 64, 3), dtype=np.uint8)
    image[10:30, 20:44] = 255
    known = np.ones((40, 64), bool)
    learned = np.zeros((40, 64), np.float32)
    learned[10:30, 20:44] = 1
    partial = Cue(learned * 0.45, known)  # just below the cues' own threshold
    even = np.ones((40, 64), np.float32)
    alone, _ = pseudo_mask(image, partial, partial, even, small)
    backed, _ = pseudo_mask(image, partial, partial, even, small.model_copy(update={"memory": 0.3}), student=learned)
    assert not alone.any()
    assert jaccard(backed, learned > 0) > 0.9


def test_pseudo_masks_are_kept_as_the_student_learned_them(tmp_path: Path) -> None:
    make_run(tmp_path, {"one": "train"}, frames=3)
    labels = np.full((3, 40, 64), IGNORED, np.uint8)
    labels[0, :20], labels[0, 20:30], labels[0, 30:39] = 0, 254, 127  # its last line is not known
    labels[2] = 0
    keep_pseudo_masks([FrameArchive(tmp_path / "frames" / "one.zip")], [labels], (0.3, 0.6), tmp_path / "kept")
    kept = MaskArchive(tmp_path / "kept" / "one.zip")
    assert [kept.has(t) for t in range(3)] == [True, False, True]
    assert (kept.gray(0)[:20] == 0).all()
    assert (kept.gray(0)[20:30] == 255).all()
    assert (kept.gray(0)[30:] == 128).all(), "inside the band, and not known"
    assert not kept.gray(2).any()


def test_no_rounds_pass_the_papers_model_through(tmp_path: Path, joint: Path) -> None:
    pass_through(joint, tmp_path / "segmenter", tmp_path / "log", tmp_path / "pseudo_masks")
    assert not any((tmp_path / "pseudo_masks").iterdir())
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "segmenter" / name).read_bytes() == (joint / name).read_bytes()
    assert Segmenter.load(tmp_path / "segmenter", "cpu").student is None
    with pytest.raises(BackdropError, match="no model folder"):
        pass_through(tmp_path / "nothing", tmp_path / "segmenter", tmp_path / "log")


def test_pseudo_masks_are_better_than_any_single_cue(small: StudentParams) -> None:
    clip = Rendered(Clip(5, "handheld", (160, 96), 24, subject=2))
    choice = small.model_copy(update={"size": (160, 96), "neighbors": 8, "spacing": 3})
    sequence, rows = StabilizedSequence(clip, exact(clip.clip), choice.size), []
    network = fitted_network(sequence, range(24), choice)
    for t in (4, 9, 14, 19):
        cues, truth = frame_cues(sequence, t, choice, network), clip.clip.mask(t)
        even = np.ones(truth.shape, np.float32)
        fused = fuse(cues, choice.size)
        soft, _ = pseudo_mask(clip.image(t), fused, cues["median"], even, choice)
        rows.append([jaccard(soft, truth), *(jaccard(cue.value, truth) for cue in cues.values())])
    mean = np.mean(rows, axis=0)
    assert mean[0] > mean[1:].max()


def test_detector_decides_between_two_blobs_where_it_is_sure() -> None:
    evidence = np.zeros((40, 64), np.float32)
    evidence[5:20, 5:25] = 1  # larger
    evidence[22:34, 44:58] = 1
    box = np.array([0.6, 0.4, 0.5, 0.7])
    window = box_window(box, (64, 40))
    for sure, left in ((0.0, True), (1.0, False)):
        chosen = subject_component(evidence, 1 - sure * (1 - window))
        assert chosen[10, 10] == left
        assert chosen[28, 50] != left


def test_agreement_is_none_by_chance_and_whole_inside() -> None:
    window = box_window(np.array([0.0, 0.0, 0.5, 0.5]), (64, 40))
    assert agreement(np.ones((40, 64), np.float32), window) == pytest.approx(0, abs=1e-6)
    inside = (window > 0.99).astype(np.float32)
    assert agreement(inside, window) == pytest.approx(1)
    assert agreement(np.zeros((40, 64), np.float32), window) == 0


def test_pseudo_mask_of_nothing_is_empty_and_knows_only_where_cues_are_low(small: StudentParams) -> None:
    value = np.zeros((40, 64), np.float32)
    value[:, :5] = 0.4
    cue = Cue(value, np.ones((40, 64), bool))
    soft, known = pseudo_mask(np.zeros((40, 64, 3), np.uint8), cue, None, np.ones((40, 64), np.float32), small)
    assert not soft.any()
    assert not known[:, :5].any()
    assert known[:, 5:].all()


def test_targets_leave_the_band_and_the_unknown_out() -> None:
    stored = torch.tensor([[[0, 100, 200, IGNORED]]], dtype=torch.uint8)
    hard = targets(stored, (0.35, 0.55))
    assert hard[0, 0, 0].tolist() == [0, 0, 1, 0]
    assert hard[0, 1, 0].tolist() == [1, 0, 1, 0]
    soft = targets(stored, None)
    assert torch.allclose(soft[0, 0, 0], torch.tensor([0, 100 / 254, 200 / 254, 0]))
    logits = torch.zeros(1, 1, 1, 4, requires_grad=True)
    student_loss(logits, hard).backward()
    assert (logits.grad != 0).flatten().tolist() == [True, False, True, False]


def test_image_and_mask_are_augmented_alike() -> None:
    image = torch.zeros(6, 3, 40, 64)
    image[:, :, 10:25, 20:45] = 1
    label = torch.cat([image[:, :1], torch.ones(6, 1, 40, 64)], dim=1)
    seen, moved = augment(image, label, torch.Generator().manual_seed(0))
    again, _ = augment(image, label, torch.Generator().manual_seed(0))
    assert torch.equal(seen, again)
    known = moved[:, 1] > 0.99
    for i in range(6):
        bright, mask = seen[i].mean(dim=0)[known[i]], moved[i, 0][known[i]]
        assert torch.corrcoef(torch.stack([bright, mask]))[0, 1] > 0.98


def test_activation_shows_the_subject_also_where_the_mask_is_empty() -> None:
    torch.manual_seed(0)
    network, size = StudentNetwork([8, 8, 8]), (64, 48)
    rng = np.random.default_rng(0)

    def picture(left: int, red: int) -> tuple[np.ndarray, np.ndarray]:
        image = rng.integers(60, 120, (48, 64, 3)).astype(np.uint8)
        mask = np.zeros((48, 64), np.float32)
        mask[16:32, left : left + 16] = 1
        image[mask > 0] = (red, 60, 60)
        return image, mask

    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    for _ in range(40):
        images, masks = zip(*(picture(int(rng.integers(0, 48)), 230) for _ in range(4)), strict=True)
        pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255
        known = torch.from_numpy(np.stack(masks))[:, None]
        loss = torch.nn.functional.binary_cross_entropy_with_logits(network(to_normal(pixels)), known)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    student = Student(network, size, 0, torch.device("cpu"))
    image, mask = picture(40, 150)
    network._compiled_call_impl = lambda *_: pytest.fail("compiled, it would not run hooks")
    found = student.activation(image)
    assert found.shape == (48, 64)
    assert found.max() == pytest.approx(1)
    assert mask[np.unravel_index(int(found.argmax()), found.shape)] == 1
    assert not any(level._forward_hooks for level in network.up), "nothing is left behind"


def test_network_takes_any_size() -> None:
    network = StudentNetwork([4, 6, 8]).eval()
    for size in ((40, 64), (33, 47)):
        assert network(torch.zeros(2, 3, *size)).shape == (2, 1, *size)


def test_sharpening_moves_an_edge_to_the_images() -> None:
    image = np.full((96, 160, 3), 60, np.uint8)
    image[24:72, 40:120] = 180
    truth = image[..., 0] > 100
    coarse = np.zeros((24, 40), np.float32)
    coarse[5:17, 11:29] = 1  # off by a working pixel, four of the image's
    plain, guided = (sharpen(image, coarse, share) > 0.5 for share in (0.0, 0.05))
    assert (guided != truth).sum() < 0.5 * (plain != truth).sum()


def test_the_threshold_is_where_the_student_agrees_with_its_pseudo_masks(
    tmp_path: Path, joint: Path, params: Params, small: StudentParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(tmp_path, {"one": "train", "two": "all"}, frames=8)
    rounds_ = training(tmp_path, joint, params, small)
    labels = np.zeros((8, 40, 64), np.uint8)
    labels[:4, 10:20, 10:30] = IGNORED - 1
    labels[:4, 20:22] = IGNORED

    def unsure(self: Student, images: list[np.ndarray]) -> list[np.ndarray]:
        soft = np.full((40, 64), 0.05, np.float32)
        soft[8:22, 8:32] = 0.27
        soft[30:38, 5:60] = 0.35  # another component, larger where it counts
        soft[10:20, 10:30] = 0.42
        soft[20:22] = 0.9  # where nothing is known
        return [soft for _ in images]

    monkeypatch.setattr(Student, "raw", unsure)
    assert rounds_._threshold([labels, labels]) == 0.4, "half of the frames have no pseudo-mask and say nothing"
    assert rounds_._threshold([labels * 0, labels * 0]) == 0.5, "no frame has one"


@pytest.mark.parametrize(
    ("overlaps", "left"),
    [
        ([0.8, 0.9, 0.3, np.nan, 0.7], {2}),
        ([0.8, 0.9, 0.5, np.nan, 0.7], set()),
        ([0.2, 0.3, 0.25, np.nan, 0.2], set()),  # a student that is bad everywhere decides nothing
        ([0.0, 0.0, 0.6, np.nan, 0.0], set()),  # nor one that knows nothing
        ([np.nan] * 5, set()),  # the first round
    ],
)
def test_frames_that_student_and_cues_see_differently_teach_nothing(
    tmp_path: Path, overlaps: list[float], left: set[int]
) -> None:
    work = Work("one", *(tmp_path / name for name in ("f", "h", "labels.npy", "e", "m")), None, 5)
    allocate(work.labels, (5, 6, 8), 100)
    leave_out(work, np.array(overlaps))
    labels = np.load(work.labels)
    assert {t for t in range(5) if (labels[t] == IGNORED).all()} == left
    assert all((labels[t] == 100).all() for t in set(range(5)) - left)


def test_no_subject_is_passed_over_for_another(small: StudentParams) -> None:
    """D finds the left one and the student of the round before knows it alone."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 40, (60, 100, 3)).astype(np.uint8)
    image[10:50, 10:30], image[10:50, 60:80] = 200, 120
    value = np.zeros((60, 100), np.float32)
    value[10:50, 10:30], value[10:50, 60:80] = 0.9, 0.8
    known, left = np.zeros_like(value), np.full_like(value, 0.05)
    known[10:50, 10:30], left[:, :40] = 1, 1
    fused = Cue(value, np.ones(value.shape, bool))
    for subjects, expected in ((1, False), (2, True)):
        choice = small.model_copy(update={"subjects": subjects, "size": (100, 60)})
        soft, _ = pseudo_mask(image, fused, None, left, choice, student=known)
        assert soft[30, 20] > 0.5
        assert (soft[30, 70] > 0.4) == expected


def test_several_subjects() -> None:
    evidence = np.zeros((60, 100), np.float32)
    evidence[5:25, 5:25] = 1.0  # 400 pixels
    evidence[5:25, 50:60] = 0.9  # 180
    evidence[40:50, 50:58] = 0.9  # 72: less than a fifth of the heaviest
    even = np.ones_like(evidence)
    expected = {1: 400, 2: 580, 3: 580}
    for subjects, pixels in expected.items():
        assert subject_component(evidence, even, subjects=subjects).sum() == pytest.approx(pixels, rel=0.05)
    assert not subject_component(evidence * 0, even, subjects=3).any()


def test_student_sees_one_subject() -> None:
    network = StudentNetwork([4, 6])
    student = Student(network, (64, 40), 0.0, torch.device("cpu"))
    soft = student.soft([np.zeros((40, 64, 3), np.uint8)])[0]
    assert soft.shape == (40, 64)
    two = np.zeros((40, 64), np.float32)
    two[2:20, 2:20] = 0.9
    two[30:38, 50:60] = 0.9
    near = near_subject(two)
    assert near[10, 10] > 0.5
    assert near[34, 55] == 0


# ------------------------------------------------------------------------------------------ a few labels


def test_without_labels_the_same_bytes_come_out_and_with_one_others(
    tmp_path: Path, joint: Path, params: Params, small: StudentParams, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(tmp_path, {"one": "train", "two": "all"}, frames=8)
    (tmp_path / "empty").mkdir()
    (tmp_path / "wrong").mkdir()
    (tmp_path / "wrong" / "a.csv").write_text("video,frame,label\nother,1,nothing\n")
    (tmp_path / "right").mkdir()
    (tmp_path / "right" / "a.csv").write_text("video,frame,label\none,3,nothing\n")
    found = {}
    for name in (None, "empty", "wrong", "right"):
        people = None if name is None else tmp_path / name
        run = training(tmp_path, joint, params, small, str(name), people)
        found[name] = run.scratch.name
        if name != "wrong":  # its key says that it would be the same run
            run.run(tmp_path / f"out_{name}")
    assert found[None] == found["empty"] == found["wrong"] != found["right"]
    plain, empty, right = (load_file(tmp_path / f"out_{n}" / "model.safetensors") for n in (None, "empty", "right"))
    assert all(torch.equal(plain[key], empty[key]) for key in plain)
    assert not all(torch.equal(plain[key], right[key]) for key in plain)
    said = capsys.readouterr().err
    assert "warning: wrong/a.csv: no frame of these videos" in said
    assert "labels: 1 frames of 1 videos take part" in said


def test_a_tag_is_looked_up_in_the_student_of_the_round_before(
    tmp_path: Path, joint: Path, params: Params, small: StudentParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(tmp_path, {"one": "train"}, frames=8)
    (tmp_path / "people").mkdir()
    (tmp_path / "people" / "a.csv").write_text("video,frame,label\none,3,present\n")
    seen, real = [], applied.of_tag
    monkeypatch.setattr(applied, "of_tag", lambda *given: seen.append(given) or real(*given))
    training(tmp_path, joint, params, small, "tag", tmp_path / "people").run(tmp_path / "out")
    (_, mask, nothing), (_, student, activation) = seen
    assert mask is nothing is None, "the first round has no student"
    assert activation.shape == student.shape
    assert activation.max() <= 1


def test_a_mask_that_is_given_to_another_frame_is_another_run(
    tmp_path: Path, joint: Path, params: Params, small: StudentParams
) -> None:
    """Its contents stay as they are, and a finished run must not be taken for it."""
    truth = make_run(tmp_path, {"one": "train", "two": "all"}, frames=8)["one"][3]
    (tmp_path / "labels" / "one").mkdir(parents=True)
    mask = tmp_path / "labels" / "one" / "3.png"
    Image.fromarray(truth.astype(np.uint8) * 255).save(mask)
    before = training(tmp_path, joint, params, small, "before", tmp_path / "labels").scratch.name
    mask.rename(mask.with_name("4.png"))
    assert training(tmp_path, joint, params, small, "after", tmp_path / "labels").scratch.name != before


def test_labels_stand_in_place_of_pseudo_masks_in_each_round_and_each_batch(
    tmp_path: Path, joint: Path, params: Params, small: StudentParams
) -> None:
    truth = make_run(tmp_path, {"one": "train", "two": "all"}, frames=8)["one"][3]
    (tmp_path / "labels" / "one").mkdir(parents=True)
    moved = np.roll(truth, 30, axis=0)  # where no cue sees a subject
    Image.fromarray(moved.astype(np.uint8) * 255).save(tmp_path / "labels" / "one" / "3.png")
    run = training(tmp_path, joint, params, small, people=tmp_path / "labels")
    assert (0, 3) in run.data.items, "though student.every leaves it out"
    assert (1, 3) not in run.data.items
    run.scratch.mkdir(parents=True)
    expected = cv2.resize(moved.astype(np.float32), small.size, interpolation=cv2.INTER_AREA) > 0.5
    for number in (0, 1):
        labels = run.expectation.labels(number)
        assert np.array_equal(labels[0][3], np.where(expected, IGNORED - 1, 0))
        for t in (0, 2, 4, 6):
            assert not (labels[0][t] == labels[1][t]).all()
    taught = {run.data.items.index((0, t)) for t in (0, 2, 3, 4, 6)}
    for iteration in range(20):
        order = run.data._order(3, iteration, 8)
        assert len(order) == 8
        assert len(taught & set(order)) >= 1
        assert order == run.data._order(3, iteration, 8)
