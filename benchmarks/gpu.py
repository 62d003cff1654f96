"""What a GPU does at the papers' scale: time, images and FLOPs a second and memory of the training steps, in one table.

    python -m benchmarks.gpu            # at most ten minutes on a GPU; no network, no data
    python -m benchmarks.gpu --small    # the same in small on any machine: that it runs, not how fast
    python -m benchmarks.gpu --count    # the FLOPs of the papers' schedule, on any machine, a minute

The joint step of the papers' method of 2021 (640 x 360, ResNet-50 in S, both inpainters frozen) and the step of an
inpainter, on random pictures that lie on the device: forwards, backwards and the optimizer; and what a student does
with frames of 640 x 384 that lie in the host's memory (`Student.raw`: up, the network, down). FLOPs are those of
convolutions and matrix products, counted once; the peak is what a large product of matrices reaches on the same device.
Rows that do not fit into memory or time say so: larger batches, several cells, what waiting for the device in each
iteration would cost, `torch.compile`. Then: which operations take the time, and whether processor and device agree.
Writes a JSON file after each row.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from backdrop.inpaint.training import InpaintingStep, random_holes
from backdrop.io.files import atomic_path
from backdrop.learn.fabric import make_fabric
from backdrop.learn.learner import Learner, generator_at
from backdrop.networks.encoder import Features
from backdrop.networks.inpainter import Inpainter
from backdrop.networks.student import Student, StudentNetwork
from backdrop.params import Params
from backdrop.train.joint import make_learner
from backdrop.train.losses import objective
from backdrop.train.model import Schedule
from benchmarks import bench

ROOT = Path(__file__).resolve().parent.parent
SCHEDULE = {"inpainter": 2 * 200_000, "joint": 100_000}
"""Iterations of the papers' complete schedule, batch 16."""
SMALL = [
    "student.size=[96,64]",
    "train.size=[96,64]",
    "synthesis.crop=32",
    "synthesis.hidden=[20,6]",
    "synthesis.decoder=[8,16]",
]
Step = Callable[[], None]


def chosen(small: bool) -> Params:
    """The papers' scale and method; random weights: nothing is downloaded."""
    overrides = [
        "scale=paper",
        "paper=p2021",
        "encoder.weights=none",
        "encoder.perceptual=none",
        "student.size=[640,384]",
    ]
    overrides += ["student.channels=[32,48,64,96,128]", *(SMALL if small else [])]
    if small:
        overrides += ["synthesis.encoder=resnet18", "inpainter.channels=[4,8]"]
    with TemporaryDirectory() as folder:
        return bench.chosen(Path(folder), *overrides)


class Runner:
    """Both kinds of training step, the library's own, on one device, in one arrangement.

    Args:
        half: bfloat16. last: channels last. compiled: by `torch.compile`. cells: how many are drawn per image; all go
            through the inpainters at once. wait: for the device in each iteration, which the library does not.
    """

    def __init__(
        self,
        params: Params,
        batch: int,
        device: torch.device,
        *,
        half: bool = True,
        last: bool = True,
        compiled: bool = False,
        cells: int = 1,
        wait: bool = False,
    ) -> None:
        torch.manual_seed(0)
        compute = params.compute.model_copy(
            update={"device": device.type, "precision": "bf16" if half else "32", "compile": compiled}
        )
        sampling = params.sampling.model_copy(update={"cells": cells})
        self.params = params.model_copy(update={"compute": compute, "sampling": sampling})
        self.fabric, self.device, self.batch, self.wait = make_fabric(compute), device, batch, wait
        self.format = torch.channels_last if last else torch.contiguous_format
        width, height = params.train.size
        self.image, self.flow = (
            torch.randn(batch, 3, height, width).to(device, memory_format=self.format) for _ in range(2)
        )
        self.valid = torch.ones(batch, dtype=torch.bool, device=device)

    def inpainter(self) -> Step:
        params, count = self.params.inpainter, iter(range(10**9))
        training = InpaintingStep(
            self.fabric, Inpainter(params.channels), Features("none"), params, self.params.compute.compile
        )
        self._arrange(training.learner)

        def step() -> None:
            boxes = random_holes(self.batch, params.hole, params.holes, generator_at(0, 0))
            boxes = boxes.to(self.device, non_blocking=True)
            training.step(next(count) % params.iterations, self.image, boxes, None, str)

        return step

    def joint(self) -> Step:
        network, count = bench.joint_model(self.params).train(), iter(range(10**9))
        learner = make_learner(self.fabric, network, self.params.train, self.params.compute.compile)
        self._arrange(learner)

        def step() -> None:
            iteration = next(count)
            generator = generator_at(0, iteration, self.device)
            terms = learner.model(self.image, self.flow, self.valid, Schedule(), generator=generator).terms
            learner.learn(iteration, terms, objective(terms, self.params.loss), [1e-4] * 3, str)

        return step

    def student(self) -> Step:
        width, height = self.params.student.size
        network = StudentNetwork(self.params.student.channels)
        student = Student(network, (width, height), 0.0, self.device)
        frames = np.random.default_rng(0).integers(0, 256, (self.batch, height, width, 3), np.uint8)

        def step() -> None:
            student.raw(list(frames))

        return step

    def _arrange(self, learner: Learner) -> None:
        learner.network.to(memory_format=self.format)  # type: ignore[call-overload]
        learner.lag = 0 if self.wait else learner.lag


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def seconds(step: Step, device: torch.device, most: float) -> float:
    """Of one step: the mean over about `most` seconds, after two to warm up."""
    for _ in range(2):
        step()
    wait(device)
    start, done = time.perf_counter(), 0
    while not done or time.perf_counter() - start < most:
        step()
        done += 1
        if done % 5 == 0:
            wait(device)
    wait(device)
    return (time.perf_counter() - start) / done


def flops(step: Step) -> int:
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()


def counted(params: Params, batch: int) -> dict[str, float]:
    """FLOPs of both steps: those of a step of two images on the processor, times what the batch is larger."""
    runner = Runner(params, 2, torch.device("cpu"), half=False)
    return {kind: flops(getattr(runner, kind)()) * batch / 2 for kind in SCHEDULE}


def peak(device: torch.device, half: bool, side: int, most: float) -> float:
    """FLOPs a second of a product of two square matrices."""
    kind = torch.bfloat16 if half else torch.float32
    a, b = (torch.randn(side, side, device=device, dtype=kind) for _ in range(2))
    return 2 * side**3 / seconds(lambda: torch.mm(a, b), device, most)  # type: ignore[arg-type, return-value]


def measure(kind: str, runner: Runner, best: float, most: float) -> dict[str, Any]:
    """One row."""
    device = runner.device
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    try:
        step = getattr(runner, kind)()
        took = seconds(step, device, most)
        counted = 0 if runner.params.compute.compile else flops(step)
    except torch.OutOfMemoryError:
        return {"fault": "out of memory"}
    memory = torch.cuda.max_memory_allocated() / 1e9 if device.type == "cuda" else None
    rate = {"TFLOPs": counted / took / 1e12, "of_peak": counted / took / best} if counted else {}
    return {"ms": 1000 * took, "images_per_s": runner.batch / took, "GB": memory} | rate


def operations(step: Step, device: torch.device, most: int = 12) -> list[dict[str, Any]]:
    """The operations that take most of the time on the device, with their shares."""
    cuda = device.type == "cuda"
    step()
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]) as found:
        step()
        wait(device)
    taken = {e.key: e.self_device_time_total if cuda else e.self_cpu_time_total for e in found.key_averages()}
    total = sum(taken.values()) or 1
    top = sorted(taken.items(), key=lambda item: -item[1])[:most]
    return [{"operation": name, "share": value / total} for name, value in top]


def disagreement(params: Params, device: torch.device) -> float:
    """Largest relative difference of a term of the loss of the joint step between the processor and the device."""
    found = []
    for where in (torch.device("cpu"), device):
        runner = Runner(params, 2, where, half=False)
        torch.manual_seed(1)
        network = bench.joint_model(params).to(where)
        network.sampling = params.sampling.model_copy(update={"kind": "exact"})  # no draws: generators differ
        with torch.no_grad():
            terms = network(runner.image, runner.flow, runner.valid).terms
        found.append({name: float(value) for name, value in terms.items()})
    host, there = found
    return max(abs(there[name] - host[name]) / max(abs(host[name]), 1e-6) for name in host)


def rows(cuda: bool) -> list[tuple[str, int, dict[str, Any]]]:
    """(step, batch, arrangement), the most telling first."""
    kinds = ("joint", "inpainter")
    found: list[tuple[str, int, dict[str, Any]]] = [(kind, 16, {}) for kind in kinds]
    found += [(kind, 16, {"wait": True}) for kind in kinds]
    found += [("student", batch, {}) for batch in (8, 64)]
    found += [(kind, batch, {}) for batch in (32, 64, 128, 256) for kind in kinds]
    found += [("joint", 16, change) for change in ({"cells": 4}, {"last": False}, {"half": False})]
    if cuda:
        found += [(kind, 16, {"compiled": True}) for kind in reversed(kinds)]
    return found


def table(result: dict[str, Any]) -> str:
    lines = [
        "| step | batch | arrangement | ms | images/s | TFLOP/s | of the peak | GB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        head = f"| {row['step']} | {row['batch']} | {row['arrangement']} |"
        if "fault" in row:
            lines.append(f"{head} {row['fault']} | | | | |")
            continue
        rate = f"{row['TFLOPs']:.1f} | {row['of_peak']:.0%}" if "TFLOPs" in row else " | "
        memory = "" if row["GB"] is None else f"{row['GB']:.1f}"
        lines.append(f"{head} {row['ms']:.1f} | {row['images_per_s']:.1f} | {rate} | {memory} |")
    return "\n".join(lines)


def described(arrangement: dict[str, Any]) -> str:
    words = ["bfloat16" if arrangement.get("half", True) else "float32"]
    words += ["channels last"] if arrangement.get("last", True) else []
    words += ["compiled"] if "compiled" in arrangement else []
    words += [f"{arrangement['cells']} cells"] if "cells" in arrangement else []
    return ", ".join(words + (["waiting each time"] if "wait" in arrangement else []))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--count", action="store_true", help="the FLOPs of the papers' schedule, and nothing else")
    parser.add_argument("--seconds", type=float, default=540, help="no row is begun after so many")
    parser.add_argument("--row", type=float, default=3.0, help="seconds that a row is measured for")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "gpu.json")
    args = parser.parse_args()
    begun, params = time.monotonic(), chosen(args.small)
    if args.count:
        found = counted(params, 16)
        whole = sum(found[kind] * times for kind, times in SCHEDULE.items())
        print(", ".join(f"{kind} step {count / 1e12:.2f} TFLOPs" for kind, count in found.items()))
        print(f"the papers' whole schedule, batch 16: {whole / 1e18:.2f} EFLOPs")
        return
    cuda = torch.cuda.is_available()
    if not cuda and not args.small:
        raise SystemExit("error: PyTorch sees no GPU here; --small runs the same in small on the processor")
    device, most = torch.device("cuda" if cuda else "cpu"), 0.1 if args.small else args.row
    name = torch.cuda.get_device_name() if cuda else "processor"
    best = {half: peak(device, half, 256 if args.small else 8192, most) for half in (True, False)}
    result: dict[str, Any] = {"device": name, "torch": torch.__version__, "small": args.small, "rows": []}
    result["peak_TFLOPs"] = {"bfloat16": best[True] / 1e12, "float32": best[False] / 1e12}

    def keep() -> None:
        with atomic_path(args.out) as temporary:
            temporary.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")

    result["disagreement"] = disagreement(chosen(True), device)
    for kind, batch, arrangement in rows(cuda):
        size = min(batch, 2) if args.small else batch
        row: dict[str, Any] = {"step": kind, "batch": size, "arrangement": described(arrangement)}
        if time.monotonic() - begun > args.seconds:
            row["fault"] = "no time"
        else:
            runner = Runner(params, size, device, **arrangement)
            row |= measure(kind, runner, best[arrangement.get("half", True)], most)
            del runner
        result["rows"].append(row)
        keep()
    result["operations"] = {
        kind: operations(getattr(Runner(params, 2 if args.small else 16, device), kind)(), device) for kind in SCHEDULE
    }
    first = {row["step"]: row for row in reversed(result["rows"])}
    if not args.small and all("ms" in row for row in first.values()):
        result["schedule_hours"] = sum(count * first[kind]["ms"] for kind, count in SCHEDULE.items()) / 3.6e6
    keep()
    print(f"{name}, PyTorch {torch.__version__}\n\n{table(result)}\n")
    for kind, found in result["operations"].items():
        print(f"{kind}: " + ", ".join(f"{one['operation']} {one['share']:.0%}" for one in found))
    if "schedule_hours" in result:
        print(f"the papers' whole schedule, batch 16: {result['schedule_hours']:.2f} hours")
    print(f"processor and device differ by {result['disagreement']:.1e} at most in a term of the loss")


if __name__ == "__main__":
    main()
