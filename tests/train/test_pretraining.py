"""Instance discrimination: it tells frames apart, both encoders get it, and it goes on where it was stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from backdrop.errors import BackdropError
from backdrop.networks.encoder import levels
from backdrop.train.joint import JointTraining
from backdrop.train.pretraining import InstanceNetwork, Pretraining, give_encoder
from tests.small_pipeline import training_params, write_material
from tests.train.test_training import folders_of, inpaint

pytestmark = pytest.mark.usefixtures("one_thread")


class Crash(Exception):
    """What a test throws out of a loop."""


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pretraining")
    write_material(root, {"one": "train", "two": "train"})
    for kind in ("rgb", "flow"):
        inpaint(root, kind, root / f"inpainter_{kind}", root / "log", root / "runs")
    return root


def joint(material: Path, work: Path, **changes: Any) -> JointTraining:
    params = training_params({f"train.{key}": value for key, value in changes.items()})
    return JointTraining(params, folders_of(material, work))


def pretraining(material: Path, work: Path, **changes: Any) -> tuple[Pretraining, JointTraining]:
    training = joint(material, work, **changes)
    return Pretraining(training.params, training.folders, training.data, training.fabric), training


def test_it_learns_to_tell_frames_apart(material: Path, tmp_path: Path) -> None:
    first, training = pretraining(material, tmp_path, pretrain_iterations=40, batch=6, rate=0.003)
    losses: list[float] = []
    plain = first.network.loss

    def watched(vector: Tensor, index: Tensor) -> Tensor:
        value = plain(vector, index)
        losses.append(float(value.detach()))
        return value

    first.network.loss = watched  # type: ignore[method-assign]
    first.run(training.network)
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])
    torch.testing.assert_close(first.network.memory.norm(dim=1), torch.ones(len(training.data)))


def test_the_loss_is_the_softmax_over_all_frames() -> None:
    network = InstanceNetwork("resnet18", 5)
    vector, index = F.normalize(torch.randn(2, 128), dim=1), torch.tensor([4, 1])
    scores = (network.memory @ vector.T / 0.07).exp()
    expected = -(scores[index, [0, 1]] / scores.sum(dim=0)).log().mean()
    torch.testing.assert_close(network.loss(vector, index), expected)
    before = network.memory.clone()
    network.remember(vector, index)
    torch.testing.assert_close(network.memory[[4, 1]], F.normalize(before[[4, 1]] + vector, dim=1))
    assert torch.equal(network.memory[[0, 2, 3]], before[[0, 2, 3]])


@pytest.mark.parametrize("backbone", ["resnet18", "efficientnet_lite0"])
def test_both_encoders_get_the_weights(backbone: str, material: Path, tmp_path: Path) -> None:
    params = training_params({"encoder.backbone": backbone})
    model = JointTraining(params, folders_of(material, tmp_path)).network
    network = InstanceNetwork(backbone, 3)
    give_encoder(network, model)
    first = levels(backbone, "none").parts[0][0].weight.shape  # type: ignore[union-attr]
    weight = next(network.parts[0].parameters())
    assert weight.shape == first
    assert torch.equal(next(model.detector.trunk.parameters()), weight)
    assert torch.equal(next(model.synthesis.stem.parameters()), weight)
    *_, last = network.parts[4].parameters()
    assert torch.equal([*model.synthesis.stages[3].parameters()][-1], last)


def test_a_crash_changes_no_weight(material: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"pretrain_iterations": 5, "checkpoint_every": 2}
    whole, model = pretraining(material, tmp_path / "whole", **settings)
    whole.run(model.network)
    broken, model = pretraining(material, tmp_path / "broken", **settings)
    plain = broken._iterate

    def crash(iteration: int, batch: Any) -> None:
        if iteration == 3:
            raise Crash
        plain(iteration, batch)

    monkeypatch.setattr(broken, "_iterate", crash)
    with pytest.raises(Crash):
        broken.run(model.network)
    again, model = pretraining(material, tmp_path / "broken", **settings)
    again.run(model.network)
    for name, value in whole.network.state_dict().items():
        assert torch.equal(value, again.network.state_dict()[name]), name


@pytest.mark.parametrize("crash_at", [0, 2])
def test_a_crash_of_joint_training_costs_no_pretraining(
    crash_at: int, material: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"pretrain_iterations": 3, "checkpoint_every": 2}
    iterations: list[int] = []
    plain, joint_step = Pretraining._iterate, JointTraining._iterate

    def counted(self: Pretraining, iteration: int, batch: Any) -> None:
        iterations.append(iteration)
        plain(self, iteration, batch)

    def crash(self: JointTraining, iteration: int, *others: Any) -> Any:
        if iteration == crash_at:
            raise Crash
        return joint_step(self, iteration, *others)

    monkeypatch.setattr(Pretraining, "_iterate", counted)
    whole = joint(material, tmp_path / "whole", **settings)
    whole.run(tmp_path / "whole" / "model")
    with monkeypatch.context() as broken:
        broken.setattr(JointTraining, "_iterate", crash)
        first = joint(material, tmp_path / "broken", **settings)
        with pytest.raises(Crash):
            first.run(tmp_path / "broken" / "model")
    runs = tmp_path / "broken" / "runs"
    assert len([*runs.glob("*.pt")]) == 1  # of pretraining, or of joint training once that has one
    again = joint(material, tmp_path / "broken", **settings)
    again.run(tmp_path / "broken" / "model")
    assert iterations == [0, 1, 2, 0, 1, 2]  # whole, broken: none in the run that goes on
    for name, value in whole.network.state_dict().items():
        assert torch.equal(value, again.network.state_dict()[name]), name
    assert not [*runs.glob("*.pt")]


def test_joint_training_begins_with_it_and_is_the_same_without(material: Path, tmp_path: Path) -> None:
    plain, own = joint(material, tmp_path / "plain"), joint(material, tmp_path / "own", pretrain_iterations=3)
    start = plain.network.detector.trunk[0].weight.clone()  # type: ignore[union-attr]
    assert torch.equal(start, own.network.detector.trunk[0].weight)  # type: ignore[union-attr,arg-type]
    plain.run(tmp_path / "plain" / "model")
    own.run(tmp_path / "own" / "model")
    ours, theirs = (run.network.detector.trunk[0].weight for run in (plain, own))  # type: ignore[union-attr]
    assert not torch.equal(ours, theirs)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder.weights": "imagenet"}, r"encoder\.weights is imagenet: set one of them"),
        ({"synthesis.encoder": "resnet50"}, r"synthesis\.encoder is resnet50: set it to resnet18"),
    ],
)
def test_what_it_cannot_start_from_is_one_error(
    changes: dict[str, Any], message: str, material: Path, tmp_path: Path
) -> None:
    training = joint(material, tmp_path)
    params = training_params(changes | {"train.pretrain_iterations": 2})
    with pytest.raises(BackdropError, match=message):
        Pretraining(params, training.folders, training.data, training.fabric)
