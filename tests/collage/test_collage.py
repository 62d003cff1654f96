"""Collages, the motion network that learns from them, and the cue that it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from backdrop.collage.camera import VIEW, random_camera
from backdrop.collage.parameters import CollageStage
from backdrop.collage.samples import ABSENT, AREAS, make_sample, read_samples, write_samples
from backdrop.collage.scene import random_collage
from backdrop.collage.subjects import random_body
from backdrop.collage.training import MotionTraining, motion_loss, vary
from backdrop.config.reading import read_checked
from backdrop.errors import BackdropError
from backdrop.learn.checkpoints import Checkpoints
from backdrop.networks.motion_network import MotionNetwork, mirrored_evidence, motion_masks, shipped_motion_network
from tests.small_pipeline import ROOT

RECIPE = ROOT / "recipes" / "motion" / "params.yaml"


def small_recipe(folder: Path, **changes: int) -> Path:
    text = RECIPE.read_text()
    values = {"samples": 6, "held": 2, "iterations": 3, "batch": 2, "workers": 1} | changes
    lines = []
    for line in text.splitlines():
        key = line.strip().split(":")[0]
        lines.append(f"  {key}: {values[key]}" if key in values else line)
    path = folder / "params.yaml"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_the_same_seed_gives_the_same_frames_and_another_seed_others() -> None:
    a, b, c = (random_collage(seed).frame(3)[0] for seed in (5, 5, 6))
    assert np.array_equal(a, b)
    assert not np.array_equal(a, c)


def test_a_layer_of_depth_one_moves_as_the_camera_says() -> None:
    camera = random_camera(np.random.default_rng(3))
    middle = np.array([260, 170, 1.0])
    assert camera.matrix(0) @ middle == pytest.approx(np.array(VIEW) / 2 - camera.shake[40], abs=1e-6)
    assert camera.matrix(4) @ middle == pytest.approx(np.array(VIEW) / 2 - camera.offset(4), abs=1e-6)


def test_bodies_are_of_the_size_asked_for() -> None:
    for seed in range(12):
        body = random_body(np.random.default_rng(seed), 30.0)
        corners = []
        for part, matrix in zip(body.parts, body.matrices(np.zeros(2), 0.0, 1.0, 0), strict=True):
            y, x = np.nonzero(part.sprite[..., 3] > 0.5)
            corners.append(np.stack([x, y, np.ones(len(x))], axis=1) @ matrix.T)
        reach = np.abs(np.concatenate(corners)).max()
        assert 15 < reach < 110, seed


def test_samples_show_the_subject_in_flow_or_background_and_some_show_none() -> None:
    seen = []
    for number in range(ABSENT):
        flow, scene, mask = make_sample(0, number)
        assert np.isfinite(flow).all()
        assert np.isfinite(scene).all()
        share = (mask > 127).mean()
        if number % ABSENT == ABSENT - 1:
            assert share == 0
            continue
        assert AREAS[0] / 2 < share < AREAS[1]
        inside, known = mask > 127, flow[:, 5].any(axis=(1, 2))
        ratios = [one[2][inside].mean() / (one[2][~inside].mean() + 1e-6) for one in flow[known]]
        ratios.append(scene[1][inside].mean() / (scene[1][~inside].mean() + 1e-6))
        seen.append(max(ratios) > 1.5)
    assert np.mean(seen) > 0.7


def test_mirrored_evidence_gives_the_mirrored_mask() -> None:
    torch.manual_seed(0)
    network = MotionNetwork().eval()
    flow, scene, _ = make_sample(0, 1)
    x, y = torch.from_numpy(flow)[None], torch.from_numpy(scene)[None]
    twice = mirrored_evidence(*mirrored_evidence(x, y))
    assert torch.equal(twice[0], x)
    assert torch.equal(twice[1], y)
    plain = motion_masks(network, [flow], [scene])[0]
    other = motion_masks(network, [mirrored_evidence(x, y)[0][0].numpy()], [mirrored_evidence(x, y)[1][0].numpy()])[0]
    assert np.allclose(plain, other[:, ::-1], atol=1e-5)


def test_a_neighbor_that_is_not_there_does_not_count() -> None:
    torch.manual_seed(0)
    network = MotionNetwork().eval()
    flow, scene, _ = make_sample(0, 2)
    flow = flow.copy()
    flow[3] = 0
    fewer = np.delete(flow, 3, axis=0)
    assert np.allclose(motion_masks(network, [flow], [scene]), motion_masks(network, [fewer], [scene]), atol=1e-6)


def test_loss_falls_on_a_sample_learned_by_heart() -> None:
    torch.manual_seed(0)
    network = MotionNetwork()
    flow, scene, mask = make_sample(0, 0)
    x, y, wanted = (torch.from_numpy(part).float()[None] for part in (flow, scene, mask))
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    losses = []
    for _ in range(25):
        terms = motion_loss(network(x, y), wanted[:, None] / 255)
        loss = terms["bce"] + 0.5 * terms["dice"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.6 * losses[0]


def test_variation_moves_evidence_and_mask_together() -> None:
    mask = torch.zeros(3, 1, 32, 48)
    mask[:, :, 8:20, 10:30] = 1
    flow = torch.zeros(3, 6, 6, 32, 48)
    flow[:, :, 2] = mask
    flow[:, :, 5] = 1
    scene = torch.cat([mask, mask, mask, torch.ones_like(mask)], dim=1)
    for seed in range(20):
        new_flow, new_scene, new_mask = vary((flow, scene, mask), torch.Generator().manual_seed(seed))
        assert torch.allclose(new_scene[:, :1], new_mask, atol=1e-5)
        known = (new_flow[:, :, 5].amax(dim=(2, 3)) > 0)[..., None, None]
        assert torch.allclose(new_flow[:, :, 2], new_mask * known, atol=1e-5)


def test_the_recipe_goes_on_where_it_was_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    params = read_checked(CollageStage, small_recipe(tmp_path))
    MotionTraining(params, whole, tmp_path / "log1").run(tmp_path / "a.safetensors")
    monkeypatch.setattr("backdrop.collage.training.RESUME_EVERY", 1)
    save, count = Checkpoints.save, []

    def stop(self: Checkpoints, state: dict) -> None:
        save(self, state)
        count.append(1)
        if len(count) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoints, "save", stop)
    with pytest.raises(KeyboardInterrupt):
        MotionTraining(params, parted, tmp_path / "log2").run(tmp_path / "b.safetensors")
    assert not (tmp_path / "b.safetensors").exists()
    made = sorted((parted / "samples").rglob("*.npz"))
    assert made
    times = [path.stat().st_mtime_ns for path in made]
    MotionTraining(params, parted, tmp_path / "log2").run(tmp_path / "b.safetensors")
    assert [path.stat().st_mtime_ns for path in made] == times, "samples are not made twice"
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    assert read_samples(write_samples(whole / "samples", params.collage, 1)).mask.shape == (8, 96, 160)


def test_a_wrong_recipe_is_named(tmp_path: Path) -> None:
    path = small_recipe(tmp_path, samples=0)
    with pytest.raises(BackdropError, match=r"params\.yaml: collage\.samples: Input should be greater"):
        read_checked(CollageStage, path)


def test_the_shipped_weights_find_the_subject_of_collages_that_they_never_saw() -> None:
    network = shipped_motion_network()
    overlap, empty = [], []
    for number in range(24):
        flow, scene, mask = make_sample(977, number)  # the recipe's seed is another one
        soft, truth = motion_masks(network, [flow], [scene])[0] > 0.5, mask > 127
        if truth.any():
            overlap.append((soft & truth).sum() / (soft | truth).sum())
        else:
            empty.append(soft.mean())
    assert np.mean(overlap) > 0.4
    assert np.mean(empty) < 0.05


def test_the_shipped_weights_are_small() -> None:
    from backdrop.networks.motion_network import MOTION_WEIGHTS

    assert MOTION_WEIGHTS.stat().st_size < 1_000_000


def test_samples_of_other_code_are_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params = read_checked(CollageStage, small_recipe(tmp_path)).collage
    first = write_samples(tmp_path / "samples", params, 1)
    other = tmp_path / "other.py"
    other.write_text("edited = True\n")
    monkeypatch.setattr("backdrop.collage.samples.reached_from", lambda files: {other})
    assert not set(first) & set(write_samples(tmp_path / "samples", params, 1))
