"""What a GPU does at the papers' scale: time, images and FLOPs a second and memory of the training steps, in one table.

    python -m benchmarks.gpu            # at most ten minutes on a GPU; no network, no data
    python -m benchmarks.gpu --small    # the same in small on any machine: that it runs, not how fast

The joint step of the papers' method of 2021 (640 x 360, ResNet-50 in S, both inpainters frozen) and the step of an
inpainter, on random pictures that lie on the device: forwards, backwards and the optimizer. FLOPs are those of
convolutions and matrix products, counted once; the peak is what a large product of matrices reaches on the same device.
Rows that do not fit into memory or time say so. Then: which operations take the time, what the waits of the checks for
numbers that are none cost, and whether processor and device agree. Writes a JSON file after each row.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from backdrop.encoder import Features, feature_distance
from backdrop.inpainter import Inpainter
from backdrop.loop import check_finite, check_gradients, generator_at
from backdrop.losses import objective, square_distance
from backdrop.params import Params
from backdrop.video import atomic_path
from benchmarks import bench

ROOT = Path(__file__).resolve().parent.parent
SCHEDULE = {"inpainter": 2 * 200_000, "joint": 100_000}
"""Iterations of the papers' whole schedule, batch 16."""
SMALL = ["train.size=[96,64]", "synthesis.crop=32", "synthesis.hidden=[20,6]", "synthesis.decoder=[8,16]"]
Step = Callable[[], None]


def chosen(small: bool) -> Params:
    """The papers' scale and method; random weights: nothing is downloaded."""
    overrides = ["scale=paper", "paper='2021'", "encoder.weights=none", *(SMALL if small else [])]
    if small:
        overrides += ["synthesis.encoder=resnet18", "inpainter.channels=[4,8]"]
    with TemporaryDirectory() as folder:
        return bench.chosen(Path(folder), *overrides)


class Runner:
    """Both kinds of training step on one device, in one arrangement."""

    def __init__(
        self, params: Params, batch: int, device: torch.device, half: bool, last: bool, compiled: bool
    ) -> None:
        torch.manual_seed(0)
        self.params, self.batch, self.device, self.half, self.compiled = params, batch, device, half, compiled
        self.format = torch.channels_last if last else torch.contiguous_format
        width, height = params.train.size
        self.image, self.flow = (
            torch.randn(batch, 3, height, width).to(device, memory_format=self.format) for _ in range(2)
        )

    def inpainter(self, checks: bool = True) -> Step:
        """See `pretraining.train_inpainter`."""
        own = self.params.inpainter
        network = Inpainter(own.channels).to(self.device, memory_format=self.format)  # type: ignore[call-overload]
        features = Features("none").to(self.device, memory_format=self.format)  # type: ignore[call-overload]
        hole = torch.zeros_like(self.image[:, :1])
        hole[..., hole.shape[2] // 4 : hole.shape[2] // 2, hole.shape[3] // 4 : hole.shape[3] // 2] = 1

        def terms() -> dict[str, torch.Tensor]:
            output = network(self.image, hole)
            distance = feature_distance(features(output), features(self.image))
            return {"l2": square_distance(output, self.image).mean(), "phi": own.perceptual * distance.mean()}

        return self._step(network, terms, lambda found: torch.stack(list(found.values())).sum(), checks)

    def joint(self, checks: bool = True) -> Step:
        """See `training.JointTraining`."""
        network = bench.joint_model(self.params).to(self.device, memory_format=self.format).train()  # type: ignore[call-overload]
        valid = torch.ones(self.batch, dtype=torch.bool, device=self.device)
        count = iter(range(10**9))

        def terms() -> dict[str, torch.Tensor]:
            generator = generator_at(0, next(count), self.device)
            return network(self.image, self.flow, valid, generator=generator).terms

        return self._step(network, terms, lambda found: objective(found, self.params.loss), checks)

    def _step(self, network: Any, terms: Callable, total: Callable, checks: bool) -> Step:
        trained = [p for p in network.parameters() if p.requires_grad]
        optimizer = torch.optim.Adam(trained, lr=1e-4, fused=True)
        forward = torch.compile(terms) if self.compiled else terms

        def step() -> None:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
                found = forward()
                loss = total(found)
            if checks:
                check_finite(found, 0, str)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            if checks:
                check_gradients(network, 0, str)
            optimizer.step()

        return step


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


def peak(device: torch.device, half: bool, side: int, most: float) -> float:
    """FLOPs a second of a product of two square matrices."""
    kind = torch.bfloat16 if half else torch.float32
    a, b = (torch.randn(side, side, device=device, dtype=kind) for _ in range(2))
    return 2 * side**3 / seconds(lambda: torch.mm(a, b), device, most)  # type: ignore[arg-type, return-value]


def measure(kind: str, runner: Runner, checks: bool, best: float, most: float) -> dict[str, Any]:
    """One row."""
    device = runner.device
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    try:
        step = getattr(runner, kind)(checks)
        took = seconds(step, device, most)
        counted = 0 if runner.compiled else flops(step)
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
        runner = Runner(params, 2, where, False, True, False)
        torch.manual_seed(1)
        network = bench.joint_model(params).to(where)
        network.sampling = params.sampling.model_copy(update={"kind": "exact"})  # no draws: generators differ
        valid = torch.ones(2, dtype=torch.bool, device=where)
        with torch.no_grad():
            terms = network(runner.image, runner.flow, valid).terms
        found.append({name: float(value) for name, value in terms.items()})
    host, there = found
    return max(abs(there[name] - host[name]) / max(abs(host[name]), 1e-6) for name in host)


def rows(cuda: bool) -> list[tuple[str, int, dict[str, bool]]]:
    """(step, batch, arrangement), the most telling first."""
    plain = {"half": True, "last": True, "compiled": False}
    found: list[tuple[str, int, dict[str, bool]]] = [(kind, 16, plain) for kind in ("joint", "inpainter")]
    found += [(kind, 16, plain | {"checks": False}) for kind in ("joint", "inpainter")]
    found += [(kind, batch, plain) for batch in (32, 64) for kind in ("joint", "inpainter")]
    found += [("joint", 16, plain | change) for change in ({"last": False}, {"half": False})]
    if cuda:
        found += [(kind, 16, plain | {"compiled": True}) for kind in ("inpainter", "joint")]
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


def described(arrangement: dict[str, bool]) -> str:
    words = ["bfloat16" if arrangement["half"] else "float32"]
    words += ["channels last"] if arrangement["last"] else []
    words += ["compiled"] if arrangement["compiled"] else []
    return ", ".join(words + ([] if arrangement.get("checks", True) else ["without checks"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--seconds", type=float, default=540, help="no row is begun after so many")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "gpu.json")
    args = parser.parse_args()
    begun, params = time.monotonic(), chosen(args.small)
    cuda = torch.cuda.is_available()
    if not cuda and not args.small:
        raise SystemExit("error: PyTorch sees no GPU here; --small runs the same in small on the processor")
    device, most = torch.device("cuda" if cuda else "cpu"), 0.1 if args.small else 6.0
    name = torch.cuda.get_device_name() if cuda else "processor"
    best = {half: peak(device, half, 256 if args.small else 8192, most / 3) for half in (True, False)}
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
            own = {key: value for key, value in arrangement.items() if key != "checks"}
            runner = Runner(params, size, device, **own)
            row |= measure(kind, runner, arrangement.get("checks", True), best[arrangement["half"]], most)
            del runner
        result["rows"].append(row)
        keep()
    result["operations"] = {
        kind: operations(getattr(Runner(params, 2 if args.small else 16, device, True, True, False), kind)(), device)
        for kind in SCHEDULE
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
