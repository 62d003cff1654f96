"""Several processes that train together: what one process with the whole batch does, to float tolerance."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import torch.multiprocessing as multiprocessing
from safetensors.torch import load_file
from torch import distributed, nn

from backdrop.learn import ranks
from tests.small_pipeline import ROOT, commands, contents, environment, stage, write_material, write_params

CHANGES = {
    "inpainter.iterations": 3,
    "inpainter.batch": 4,
    "background.kind": "inpaint",
    "train.batch": 4,
    "train.iterations": 4,
    "train.offset_fixed": 0,
    "train.box_fixed": 0,
    "loss.scale_prior": 0.1,
    "loss.offset_prior": 0.1,
    "student.batch": 4,
    "student.every": 1,
    "student.iterations": 4,
    "student.gate": 0.0,
}
"""Every term of the losses that is no mean over images, and everything that is drawn."""
CHANGES |= dict.fromkeys(["inpainter.rate", "train.rate", "train.decoder_rate", "train.box_rate", "student.rate"], 1e-7)
"""Adam's first steps are as long as the rate, whatever the gradient: at the usual rates a gradient of 1e-9 that rounds
to the other sign is soon seen in the losses. With small ones the gradients themselves add up, in its state."""
MODELS = {"inpaint": ["inpainter_rgb", "inpainter_flow"], "train": ["joint"], "student": ["segmenter"]}
KEEP = """
import runpy, sys
from backdrop.inpaint import training
from backdrop.learn import checkpoints
checkpoints.Checkpoints.clear = lambda self: None
training.CHECKPOINT_EVERY = 1
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""Runs a stage and keeps its last checkpoint."""


def project(folder: Path, changes: Mapping[str, Any]) -> None:
    folder.mkdir(parents=True)
    write_params(folder, CHANGES | dict(changes))
    for name in ("frames", "homographies", "flow"):
        (folder / "data" / name).symlink_to(folder.parent / "material" / name)


def launch(name: str, folder: Path, launcher: list[str], **variables: str) -> list[subprocess.CompletedProcess[str]]:
    """Run a training stage of dvc.yaml; it keeps its last checkpoint."""
    env = environment(PYTHONPATH=str(ROOT), **variables)
    done = []
    for _, file, *arguments in commands(name):
        words = [*launcher, sys.executable, "-c", KEEP, str(ROOT / file), *arguments]
        done.append(subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True, timeout=300))
        assert done[-1].returncode == 0, done[-1].stderr
    assert list((folder / "runs").rglob("*.pt")), "the gradients are compared in it"
    return done


TORCHRUN = [str(Path(sys.executable).parent / "torchrun"), "--standalone", "--nproc-per-node=2", "--no-python", "--"]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The three stages of training by one process each, with the whole batch."""
    root = tmp_path_factory.mktemp("ranks")
    write_material(root / "material", {"one": "train", "two": "train"})
    project(root / "alone", {})
    for name in MODELS:
        launch(name, root / "alone", [])
    return root / "alone"


def together(alone: Path, folder: str, name: str, changes: Mapping[str, Any]) -> Path:
    """A project for one stage, with the models of `alone` that it reads."""
    own = alone.parent / folder
    project(own, changes)
    (own / "models").mkdir()
    for before in list(MODELS)[: list(MODELS).index(name)]:
        for model in MODELS[before]:
            (own / "models" / model).symlink_to(alone / "models" / model)
    return own


def rows(folder: Path) -> dict[str, list[float]]:
    """Curve -> its values."""
    found = {}
    for path in sorted(folder.rglob("*.tsv")):
        lines = path.read_text().splitlines()[1:]
        found[path.relative_to(folder).as_posix()] = [float(line.split("\t")[1]) for line in lines]
    return found


def gradients(checkpoint: Path) -> dict[str, torch.Tensor]:
    """Adam's running mean of the gradients, by parameter."""
    state = torch.load(checkpoint, weights_only=True)["optimizer"]["state"]
    return {str(key): value["exp_avg"] for key, value in state.items()}


def same(name: str, own: Path, alone: Path) -> None:
    """Losses, gradients, batch norm's statistics agree to float tolerance."""
    for log in sorted((own / "metrics").iterdir()):
        here, there = rows(log), rows(alone / "metrics" / log.name)
        assert list(here) == list(there)
        for curve, values in here.items():
            assert values == pytest.approx(there[curve], rel=1e-4, abs=1e-6), curve
    for path in sorted((own / "runs").glob("*.pt")):
        other = gradients(alone / "runs" / path.name.replace(own.name, alone.name))
        for key, value in gradients(path).items():
            assert float((value - other[key]).norm()) <= 0.01 * float(other[key].norm()) + 1e-6, key
    for model in MODELS[name]:
        if (own / "models" / model).is_symlink():
            continue
        weights, others = (load_file(root / "models" / model / "model.safetensors") for root in (own, alone))
        assert weights.keys() == others.keys()
        for key, value in weights.items():
            torch.testing.assert_close(value, others[key], rtol=1e-3, atol=1e-5, msg=lambda m, k=key: f"{k}: {m}")


@pytest.mark.slow
@pytest.mark.parametrize("name", list(MODELS))
def test_two_processes_learn_what_one_learns(name: str, alone: Path) -> None:
    own = together(alone, f"torchrun_{name}", name, {})
    launch(name, own, TORCHRUN)
    same(name, own, alone)


@pytest.mark.slow
def test_the_stage_starts_its_processes_by_itself(alone: Path) -> None:
    """As DVC runs it, with nothing but the parameter."""
    own = together(alone, "by_itself", "train", {"compute.devices": 2})
    for _, file, *arguments in commands("train"):
        done = stage(Path(file).stem, own, *arguments)
        assert done.returncode == 0, done.stderr
    same("train", own, alone)
    assert not list((own / "runs").rglob("*.pt")), "one writer, which also clears"


@pytest.mark.slow
def test_srun_starts_the_processes(alone: Path) -> None:
    """Two processes with the variables that srun gives to its tasks."""
    own = together(alone, "srun", "inpaint", {})
    job = {"SLURM_JOB_ID": "12345", "SLURM_JOB_NAME": "train", "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2"}
    job |= {"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NUM_NODES": "1", "SLURM_NNODES": "1", "SLURM_NODEID": "0"}
    job |= {"SLURM_NODELIST": "localhost", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    for _, file, *arguments in commands("inpaint"):
        words = [sys.executable, "-c", KEEP, str(ROOT / file), *arguments]
        tasks = []
        for number in ("0", "1"):
            env = environment(PYTHONPATH=str(ROOT), SLURM_PROCID=number, SLURM_LOCALID=number, **job)
            tasks.append(subprocess.Popen(words, cwd=own, env=env, stderr=subprocess.PIPE, text=True))
        for task in tasks:
            _, said = task.communicate(timeout=200)
            assert task.returncode == 0, said
    same("inpaint", own, alone)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.mark.slow
def test_a_killed_rank_ends_the_run_and_the_next_goes_on(alone: Path) -> None:
    changes = {"compute.devices": 2, "train.iterations": 12}
    whole = together(alone, "whole", "train", changes)
    _, file, *arguments = commands("train")[0]
    assert stage(Path(file).stem, whole, *arguments).returncode == 0
    cut = together(alone, "cut", "train", changes)
    env = environment(PYTHONPATH=str(ROOT))
    words = [sys.executable, str(ROOT / file), *arguments]
    with subprocess.Popen(words, cwd=cut, env=env, stderr=subprocess.PIPE, text=True) as first:
        deadline = time.monotonic() + 120
        while not list((cut / "runs").glob("*.pt")):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        (second,) = psutil.Process(first.pid).children()
        second.send_signal(signal.SIGKILL)
        _, said = first.communicate(timeout=120)
        assert first.returncode == 1
        assert "another process of the training ended" in said
        assert "Traceback" not in said
    assert not (cut / "models" / "joint").exists()
    done = stage(Path(file).stem, cut, *arguments)
    assert done.returncode == 0, done.stderr
    assert rows(cut / "metrics") == rows(whole / "metrics")
    assert contents(cut / "models" / "joint") == contents(whole / "models" / "joint")
    steps = [int(text) for text in re.findall(r"joint training: +\d+%\|.*?\| (\d+)/14", done.stderr)]
    assert steps[0] > 0, "from the checkpoint on"


@pytest.mark.slow
def test_a_batch_that_cannot_be_divided_is_an_error(alone: Path) -> None:
    own = together(alone, "odd", "train", {"compute.devices": 2, "train.batch": 3})
    _, file, *arguments = commands("train")[0]
    done = stage(Path(file).stem, own, *arguments)
    assert done.returncode == 1
    assert "a batch of 3 cannot be divided among 2 processes" in done.stderr
    assert "Traceback" not in done.stderr


# ------------------------------------------------------------------------------------------------ parts


def _norms(rank: int, folder: str, images: torch.Tensor) -> None:
    """Of two: batch norm of its half, the gradients, what it draws."""
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    ranks.share_batch_norm(network, torch.device("cpu"))
    own = ranks.local_part(images).clone().requires_grad_()
    output = network(own)
    loss = output.square().mean() + ranks.mean(own.mean()) ** 2
    loss.backward()
    for parameter in network.parameters():
        distributed.all_reduce(parameter.grad)
        parameter.grad = parameter.grad / 2  # type: ignore[operator] # as gradients of processes are averaged
    generator = torch.Generator().manual_seed(3)
    with ranks.main_process_first() as first:
        if first:
            time.sleep(0.5)
            Path(folder, "first").touch()
    assert Path(folder, "first").exists()
    assert first == (rank == 0)
    drawn = ranks.rand(2, 2, 5, dim=1, generator=generator)
    state = {key: value.clone() for key, value in network.state_dict().items()}
    gradients = [parameter.grad for parameter in network.parameters()]
    found = {"output": output, "image": own.grad, "state": state, "gradients": gradients, "drawn": drawn}
    torch.save(found | {"whole": ranks.gather(own), "mean": ranks.means([float(rank)])}, f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


def test_batch_norm_draws_and_means_are_those_of_the_whole_batch(tmp_path: Path) -> None:
    images = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    multiprocessing.spawn(_norms, (str(tmp_path), images), nprocs=2)
    found = [torch.load(tmp_path / f"{rank}.pt", weights_only=False) for rank in (0, 1)]
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    whole = images.clone().requires_grad_()
    output = network(whole)
    (output.square().mean() + whole.mean() ** 2).backward()
    torch.testing.assert_close(torch.cat([one["output"] for one in found]), output)
    torch.testing.assert_close(torch.cat([one["image"] for one in found]) / 2, whole.grad)
    for one in found:
        torch.testing.assert_close(one["state"], dict(network.state_dict()))
        torch.testing.assert_close(one["gradients"], [p.grad for p in network.parameters()])
        torch.testing.assert_close(one["whole"], images)
        assert one["mean"] == [0.5]
    drawn = torch.rand(2, 4, 5, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(torch.cat([one["drawn"] for one in found], dim=1), drawn, rtol=0, atol=0)
