"""All that a GPU is to tell, in one run of at most nine minutes: steps, sequences trained, inference.

    python -m benchmarks.gpu_run /path/to/DAVIS2016 OUT             # on a GPU, with no network
    python -m benchmarks.gpu_run /path/to/DAVIS2016 OUT --small     # a rehearsal on any machine, some minutes

Each step is a process of its own: what one lacks (a package, memory, time) costs that step alone, and is named.

1. `run.json`: the machine, its PyTorch, and packages that are missing. It is written first, and after each step.
2. `gpu.json`: steps at the papers' scale, and whether processor and GPU agree (`benchmarks.gpu`), a third of the time.
3. `sequences.json`: sequences trained by `scale=gpu`, one for two cores at a time, until the time is up;
   `<name>.safetensors`: the student of each of the first five, in half precision.
4. In `run.json`: `predict` on a video of 1280 x 720 made of the first sequence, by its model; frames a second.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import cv2
import torch
from safetensors.torch import load_file, save_file

from backdrop.io.files import atomic_path
from backdrop.io.images import decode_image, resize
from backdrop.video.encode import encode_video

ROOT = Path(__file__).resolve().parent.parent
STEPS_SHARE = 1 / 3
"""Of the time, for step 2."""

PREDICT_SECONDS = 60
"""Of the time, for step 4."""

STUDENTS = 5
"""So many students are kept: the folder stays within eight files."""

HD = (1280, 720)
VIDEO_FRAMES = 600
PACKAGES = ("av", "cv2.ximgproc", "lightning", "omegaconf", "hydra", "pydensecrf", "pycocotools", "torchvision")
SMALL = [
    "data.limit=8",
    "train.size=[96,64]",
    "student.size=[160,96]",
    "student.iterations=4",
    "inpainter.iterations=4",
    "train.iterations=2",
    "train.detector_iterations=2",
    "train.synthesis_iterations=2",
]


def missing(packages: Sequence[str] = PACKAGES) -> list[str]:
    """Those that cannot be imported here."""
    found = []
    for name in packages:
        try:
            there = importlib.util.find_spec(name) is not None or hasattr(cv2, name.removeprefix("cv2."))
        except ModuleNotFoundError:
            there = hasattr(cv2, name.removeprefix("cv2."))
        if not there:
            found.append(name)
    return found


def run_until(command: Sequence[str], seconds: float, log: Path) -> str:
    """Run a command and stop it, with all that it started, after so many seconds.

    Returns:
        "done", "no time" (stopped), or "failed with status N: <last line of its log>".
    """
    if seconds <= 0:
        return "no time"
    with log.open("w") as stream:
        child = subprocess.Popen(command, cwd=ROOT, stdout=stream, stderr=stream, start_new_session=True)
        try:
            status = child.wait(seconds)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            for sent in (signal.SIGINT, signal.SIGKILL):  # what the command started may outlive it
                with suppress(ProcessLookupError):
                    os.killpg(child.pid, sent)
                with suppress(subprocess.TimeoutExpired):
                    child.wait(5)
    if status is None:
        return "no time"
    last = log.read_text(errors="replace").strip().splitlines()[-1:] or [""]
    return "done" if status == 0 else f"failed with status {status}: {last[0]}"


def finished(work: Path) -> list[Path]:
    """The folders of the sequences that are done, in the order in which they were."""
    done = sorted(work.glob("*/*/result.json"), key=lambda path: path.stat().st_mtime)
    return [path.parent for path in done]


def collect(work: Path, out: Path, most: int = STUDENTS) -> list[dict[str, Any]]:
    """The results of the sequences that are done, into sequences.json, and the first students beside it."""
    results = []
    for folder in finished(work):
        results.append(json.loads((folder / "result.json").read_text(encoding="utf-8")))
        if len(results) <= most:
            state = load_file(folder / "models" / "segmenter" / "model.safetensors")
            student = {name: value.half() for name, value in state.items() if name.startswith("student.")}
            save_file(student, out / f"{folder.name}.safetensors")
    with atomic_path(out / "sequences.json") as temporary:
        temporary.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return results


def film(frames: Sequence[Path], path: Path, length: int) -> Path:
    """A video of 1280 x 720 of some images, there and back until it is long enough."""
    images = [resize(decode_image(frame), HD) for frame in frames]
    encode_video(path, ((images + images[::-1])[t % (2 * len(images))] for t in range(length)), fps=30)
    return path


def predict(work: Path, root: Path, most: float, frames: int) -> dict[str, Any]:
    """`predict` by the model of the first sequence that is done: the whole command, and without its start."""
    runs, begun = finished(work), time.monotonic()
    if not runs:
        return {"outcome": "no sequence was done"}
    run = runs[0]
    images = sorted(root.glob(f"JPEGImages/*/{run.name}/*.jpg"))[:40]
    seconds = []
    for length in (2, frames):
        video = film(images, work / f"film{length}.mp4", length)
        words = ["predict", str(video), "--model", str(run / "models" / "segmenter"), "-o", str(work / f"film{length}")]
        started = time.monotonic()
        command = [sys.executable, "-m", "backdrop", *words, "--refine", "none", "--format", "masks"]
        outcome = run_until(command, most - (started - begun), work / "predict.log")
        seconds.append(time.monotonic() - started)
        if outcome != "done":
            return {"outcome": outcome}
    return {"outcome": outcome, "frames": frames, "seconds": seconds[1], "start": seconds[0]} | {
        "fps": frames / seconds[1],
        "fps_without_start": (frames - 2) / max(seconds[1] - seconds[0], 1e-9),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, help="a data set as DAVIS 2016 lays it out")
    parser.add_argument("out", type=Path, help="folder for the results")
    parser.add_argument("--small", action="store_true", help="few iterations on small images")
    parser.add_argument("--seconds", type=float, default=540, help="for all of it")
    parser.add_argument("--jobs", type=int, default=max(1, (os.cpu_count() or 1) // 2), help="sequences at a time")
    args = parser.parse_args()
    begun, out, root = time.monotonic(), args.out.resolve(), args.root.resolve()
    work = out.parent / f"{out.name}.work"
    shutil.rmtree(work, ignore_errors=True)  # what a rehearsal left is no result of this run
    for folder in (out, work):
        folder.mkdir(parents=True, exist_ok=True)
    cuda = torch.cuda.is_available()
    if not cuda and not args.small:
        raise SystemExit("error: PyTorch sees no GPU here; --small rehearses on the processor")
    device = torch.cuda.get_device_name() if cuda else "processor"
    run: dict[str, Any] = {"device": device, "cores": os.cpu_count(), "torch": torch.__version__, "missing": missing()}

    def left() -> float:
        return args.seconds - (time.monotonic() - begun)

    def keep(step: str, found: Any) -> None:
        run[step] = found
        with atomic_path(out / "run.json") as temporary:
            temporary.write_text(json.dumps(run, indent=1) + "\n", encoding="utf-8")
        print(f"{step}: {json.dumps(found)}", flush=True)

    keep("small", args.small)
    small = ["--small"] if args.small else []
    most = args.seconds * STEPS_SHARE
    words = ["-m", "benchmarks.gpu", *small, "--seconds", str(0.8 * most), "--out", str(out / "gpu.json")]
    keep("steps", run_until([sys.executable, *words], most, work / "gpu.log"))
    words = ["-m", "benchmarks.sequences", "davis2016", str(root), "--scale", "gpu", "--jobs", str(args.jobs)]
    words += ["--work", str(work), "--out", str(work / "all.json"), *(["--set", *SMALL] if args.small else [])]
    keep("training", run_until([sys.executable, *words], left() - PREDICT_SECONDS, work / "sequences.log"))
    found = collect(work, out)
    keep("J", {one["sequence"]: one["scores"]["method"]["J_mean"] for one in found})
    keep("predict", predict(work, root, left(), 40 if args.small else VIDEO_FRAMES))
    keep("seconds", time.monotonic() - begun)


if __name__ == "__main__":
    main()
