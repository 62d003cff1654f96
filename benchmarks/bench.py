"""Ratios of time and memory against what one would do otherwise, each measured side by side in this run.

    make bench
    python -m benchmarks.bench --only crf inference
    python -m benchmarks.bench --profile

Both sides of a row run in turns (ours, theirs, ours, ...), medians count, and a row's ratio says how many times less
time (or memory) ours takes. Memory is the growth of the largest resident set of a process of its own for each side.
Everything runs on rendered footage and random weights: nothing is downloaded. Writes benchmarks/bench.json, too.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stderr
from dataclasses import dataclass
from datetime import date
from functools import partial
from io import BytesIO, StringIO
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import psutil
import torch

from backdrop.io.files import atomic_path
from backdrop.params import Params, compose_params, read
from backdrop.render.clip import Clip
from backdrop.train.model import Model
from backdrop.train.parameters import TrainStage

ROOT = Path(__file__).resolve().parent.parent
Side = Callable[[], object]


@dataclass
class Row:
    """One comparison. `make` prepares in a folder of its own and gives both sides; `memory`: compare that, too.

    frames: not 0: so many frames are segmented, and seconds are those of the processor, over all threads. They do not
    depend on who else uses the cores.
    """

    name: str
    what: str
    against: str
    reach: str
    make: Callable[[Path], tuple[Side, Side]]
    rounds: int = 5
    memory: bool = False
    frames: int = 0


class Rendered:
    """A rendered clip as a sequence of images."""

    def __init__(self, size: tuple[int, int], frames: int) -> None:
        clip = Clip(3, "handheld", size, frames)
        self.images = [clip.frame(t) for t in range(frames)]
        self.masks = [clip.mask(t) for t in range(frames)]

    def __len__(self) -> int:
        return len(self.images)

    def image(self, t: int) -> np.ndarray:
        return self.images[t]


def chosen(folder: Path, *overrides: str) -> Params:
    compose_params([*overrides, "compute.workers=1", "compute.device=cpu"], folder / "params.yaml", ROOT / "conf")
    return read(folder / "params.yaml")


def joint_model(params: Params) -> Model:
    """D, S and both inpainters (which the model freezes) with random weights."""
    from backdrop.networks.inpainter import Inpainter
    from backdrop.train.joint import build_model

    return build_model(params.of_stage(TrainStage), *(Inpainter(params.inpainter.channels) for _ in range(2)))


# Rows -------------------------------------------------------------------------------------------------


def scores(folder: Path) -> tuple[Side, Side]:
    from backdrop.measures import boundary_f, jaccard

    masks = Rendered((854, 480), 4).masks
    pairs = [(masks[0], other) for other in masks[1:]]

    def ours() -> list[tuple[float, float]]:
        return [(jaccard(a, b), boundary_f(a, b)) for a, b in pairs]

    def theirs() -> list[tuple[float, float]]:
        return [(plain_jaccard(a, b), plain_boundary_f(a, b)) for a, b in pairs]

    assert np.abs(np.array(ours()) - np.array(theirs())).max() < 1e-12
    return ours, theirs


def plain_jaccard(a: np.ndarray, b: np.ndarray) -> float:
    union = np.logical_or(a, b).sum()
    return float(np.logical_and(a, b).sum() / union) if union else 1.0


def plain_boundary_f(a: np.ndarray, b: np.ndarray) -> float:
    """DAVIS's definition, array by array: boundary maps, dilated by a disk with SciPy."""
    from scipy.ndimage import binary_dilation

    def boundary(mask: np.ndarray) -> np.ndarray:
        right, below, across = np.zeros_like(mask), np.zeros_like(mask), np.zeros_like(mask)
        right[:, :-1], below[:-1], across[:-1, :-1] = mask[:, 1:], mask[1:], mask[1:, 1:]
        edge = (mask ^ right) | (mask ^ below) | (mask ^ across)
        edge[-1], edge[:, -1] = mask[-1] ^ right[-1], mask[:, -1] ^ below[:, -1]
        edge[-1, -1] = False
        return edge

    radius = int(np.ceil(0.008 * np.linalg.norm(a.shape)))
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    disk = x**2 + y**2 <= radius**2
    first, second = boundary(a), boundary(b)
    if not first.any() or not second.any():
        return float(first.any() == second.any())
    precision = (first & binary_dilation(second, disk)).sum() / first.sum()
    recall = (second & binary_dilation(first, disk)).sum() / second.sum()
    return float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0


def joint_step(folder: Path) -> tuple[Side, Side]:
    """One iteration of the papers' method of 2021, forwards and backwards, without the optimizer."""
    from backdrop.train.losses import objective

    size, batch = (160, 96), 4  # half of its memory are gradients with two images, and they do not grow
    params = chosen(folder, "paper=p2021", f"train.size=[{size[0]},{size[1]}]", f"train.batch={batch}")
    torch.manual_seed(0)
    model = joint_model(params).train()
    image, flow = (torch.randn(batch, 3, size[1], size[0]) for _ in range(2))
    valid = torch.ones(batch, dtype=torch.bool)
    one, exact = model.sampling, model.sampling.model_copy(update={"kind": "exact"})

    def step(sampling: Any) -> Side:
        def run() -> None:
            model.sampling = sampling
            model.zero_grad(set_to_none=True)
            objective(model(image, flow, valid).terms, params.loss).backward()

        return run

    return step(one), step(exact)


def stabilize(folder: Path) -> tuple[Side, Side]:
    from backdrop.motion.homography import estimate_homography, keypoints, neighbor_of
    from backdrop.stabilize.stage import stabilize_sequence

    params, clip = chosen(folder).stabilize, Rendered((854, 480), 8)

    def anew() -> None:
        for t in range(len(clip)):
            other = neighbor_of(t, len(clip), params.gap)
            found = [keypoints(clip.image(k), params.features) for k in (other, t)]
            estimate_homography(found[0], found[1], (854, 480), params)

    return lambda: stabilize_sequence(clip, params), anew


def flownet(folder: Path) -> tuple[Side, Side]:
    from backdrop.flow.correlation import quiet
    from backdrop.flow.ptlflow import PtlflowModel, import_ptlflow

    ptlflow, pair = import_ptlflow(), Rendered((448, 256), 2).images
    with quiet():
        torch.manual_seed(0)
        plain = ptlflow.get_model("flownet2", ckpt_path=None)
        state = {key: value.clone() for key, value in plain.state_dict().items()}
        fast = ptlflow.get_model("flownet2", ckpt_path=None)
        fast.load_state_dict(state)
    images = torch.from_numpy(np.ascontiguousarray(np.stack(pair)[..., ::-1].transpose(0, 3, 1, 2)))[None].float() / 255
    model = PtlflowModel(fast, "flownet2", "cpu")
    plain.eval()

    def theirs() -> torch.Tensor:
        with torch.inference_mode(), redirect_stderr(StringIO()):
            return plain({"images": images})["flows"]

    return lambda: model(pair[0], pair[1]), theirs


def crf(folder: Path) -> tuple[Side, Side]:
    import cv2

    from backdrop.io.archives import ArchiveWriter
    from backdrop.io.frame_archive import frames_table
    from backdrop.io.images import encode_jpeg, encode_png
    from backdrop.io.masks import BOXES, entry
    from backdrop.refine.stage import RefineFolders, refine_all

    params: Any = chosen(folder).crf
    clip, frames = Rendered((640, 360), 6), 48
    (folder / "frames").mkdir()
    with ArchiveWriter(folder / "frames" / "clip.zip") as archive:
        for t in range(frames):
            archive.add(f"images/{t:06d}.jpg", encode_jpeg(clip.image(t % len(clip))))
        names = [f"{t:05d}" for t in range(frames)]
        archive.add("frames.csv", frames_table(names, [t / 24 for t in range(frames)], [False] * frames))
    with ArchiveWriter(folder / "predictions" / "clip.zip") as archive:
        for t in range(frames):
            soft = cv2.GaussianBlur(clip.masks[t % len(clip)].astype(np.float32), (0, 0), 4)
            archive.add(entry(t), encode_png(np.rint(255 * soft).astype(np.uint8)))
        p = np.full((frames, 8, 8), 1 / 64)
        facts = BytesIO()
        np.savez(facts, box=np.zeros((frames, 4)), cell=np.zeros(frames, np.int64), p=p)
        archive.add(BOXES, facts.getvalue())
    write_index(folder / "frames", frames)

    def run(workers: int) -> Side:
        def refined() -> None:
            with redirect_stderr(StringIO()):
                folders = RefineFolders(folder / "frames", folder / "predictions", folder / f"{workers}")
                refine_all(folders, params, 0.5, workers)

        return refined

    return run(2), run(1)


def write_index(folder: Path, frames: int) -> None:
    from backdrop.io.index import INDEX_COLUMNS

    row = dict.fromkeys(INDEX_COLUMNS, 0) | {
        "sequence": "clip", "split": "all", "source": "rendered", "status": "ok", "reason": "", "fps": 24,
        "frames": frames, "declared_frames": frames, "width": 640, "height": 360,
    }  # fmt: skip
    lines = [",".join(INDEX_COLUMNS), ",".join(str(row[column]) for column in INDEX_COLUMNS)]
    (folder / "index.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def untrained(folder: Path) -> Any:
    """A segmenter with the networks of `scale=demo`, and random weights."""
    from backdrop.app.segmenter import Segmenter
    from backdrop.networks.detector import Detector
    from backdrop.networks.student import Student, StudentNetwork
    from backdrop.networks.synthesis import SynthesisNetwork

    params = chosen(folder, "scale=demo")
    torch.manual_seed(0)
    cpu, section = torch.device("cpu"), params.student
    student = Student(StudentNetwork(section.channels), section.size, section.guide, cpu)
    detector, synthesis = Detector(params.detector, "none"), SynthesisNetwork(params.synthesis, "none")
    return Segmenter(detector, synthesis, params.train.size, cpu, student)


PREDICTED = 64
"""Frames of the video in the row `predict`."""


def prediction(folder: Path, size: tuple[int, int] = (640, 360)) -> tuple[Side, Side]:
    """From a video file to PNG masks on disk, decoding included, before the CRF: what `backdrop predict` does, and the
    same with u2netp. Both sides decode alike, and give each core images of its own.

    Args:
        size: (width, height) of the video.
    """
    from itertools import islice
    from shutil import rmtree

    from backdrop.app.predict import Job, predict_source
    from backdrop.app.records import Settings
    from backdrop.app.sources import Source
    from backdrop.io.images import encode_png
    from backdrop.run.threads import ahead, in_threads
    from backdrop.student.cues.prior import prior_files, prior_map
    from backdrop.video.decode import decode_video
    from backdrop.video.encode import encode_video

    prior_files("u2netp")  # says how to install it where it is missing
    encode_video(folder / "run.mp4", Rendered(size, PREDICTED).images, fps=24)
    segmenter, out = untrained(folder), folder / "out"

    def ours() -> None:
        rmtree(out, ignore_errors=True)
        job = Job(segmenter, out, Settings("untrained", 0.5, None))
        assert predict_source(job, Source(folder / "run.mp4", "run", True, "run.mp4")) == PREDICTED

    def theirs() -> None:
        rmtree(out, ignore_errors=True)
        (out / "masks").mkdir(parents=True)
        frames = decode_video(folder / "run.mp4")
        for together in ahead(iter(lambda: list(islice(frames, 8)), [])):
            maps = in_threads(lambda frame: prior_map(np.ascontiguousarray(frame[2]), "u2netp"), together)
            for (number, *_), soft in zip(together, maps, strict=True):
                png = encode_png((soft > 0.5).astype(np.uint8) * 255)
                (out / "masks" / f"{number:06d}.png").write_bytes(png)

    return ours, theirs


def inference(folder: Path) -> tuple[Side, Side]:
    """From a decoded image of 640 x 360 to its mask: networks of `scale=demo`; the CRF is not part of it."""
    import torchvision

    ours, image = untrained(folder), Rendered((640, 360), 1).images[0]
    rival = torchvision.models.detection.maskrcnn_resnet50_fpn(weights=None, weights_backbone=None).eval()
    tensor = torch.from_numpy(image).permute(2, 0, 1).float() / 255

    def theirs() -> object:
        with torch.inference_mode():
            return rival([tensor])

    return lambda: ours.predict(image), theirs


def data_waits(folder: Path) -> tuple[Side, Side]:
    """Twelve joint iterations of the demo's networks, with batches from the archives and with batches at hand."""
    from backdrop.networks.inpainter import Inpainter
    from backdrop.networks.model_folders import save_network
    from backdrop.train.joint import JointTraining, phase
    from backdrop.train.parameters import TrainFolders

    params: Params = chosen(folder, "scale=demo", "background.kind=inpaint", "train.overlay_every=0")
    material(folder, 24)
    for kind in ("rgb", "flow"):
        channels = params.inpainter.channels
        save_network(folder / f"inpainter_{kind}", Inpainter(channels), {"channels": channels})
    names = ("frames", "homographies", "flow", "inpainter_rgb", "inpainter_flow", "log", "runs")
    run = JointTraining(params.of_stage(TrainStage), TrainFolders(*(folder / name for name in names)))
    first, count = params.train.detector_iterations + params.train.synthesis_iterations, 4
    name, schedule = phase(params.train, first)

    def batches() -> Any:
        return run.data.batches(0, first, first + count, params.train.batch, 0)

    held = list(batches())

    def train(some: Any) -> None:
        for iteration, batch in enumerate(some, first):
            run._iterate(iteration, batch, name, schedule)

    return lambda: train(batches()), lambda: train(held)


def material(folder: Path, frames: int) -> None:
    """Frames, homographies and flow of a rendered clip, by the stages' own functions."""
    from backdrop.flow.stage import flow_sequence
    from backdrop.io.archives import ArchiveWriter
    from backdrop.io.frame_archive import FrameArchive, frames_table
    from backdrop.io.images import encode_jpeg
    from backdrop.motion.flow_field import dense_inverse_search
    from backdrop.motion.homography import save_homographies
    from backdrop.stabilize.stage import stabilize_sequence

    clip = Rendered((320, 192), frames)
    with ArchiveWriter(folder / "frames" / "clip.zip") as archive:
        for t in range(frames):
            archive.add(f"images/{t:06d}.jpg", encode_jpeg(clip.image(t)))
        names = [f"{t:05d}" for t in range(frames)]
        archive.add("frames.csv", frames_table(names, [t / 24 for t in range(frames)], [False] * frames))
    write_index(folder / "frames", frames)
    stored = FrameArchive(folder / "frames" / "clip.zip")
    homographies = stabilize_sequence(stored, read(folder / "params.yaml").stabilize)
    (folder / "homographies").mkdir()
    save_homographies(folder / "homographies" / "clip.npz", homographies)
    flow_sequence(stored, homographies, dense_inverse_search, folder / "flow" / "clip.zip")


def dvc(folder: Path) -> tuple[Side, Side]:
    """`dvc status` and `dvc repro` with nothing to do, for 20,000 frames in 20 archives and in 20,000 files."""
    import zipfile

    frames, sequences = 20_000, 20
    rng = np.random.default_rng(0)
    sides = []
    for kind in ("archives", "files"):
        project = folder / kind
        (project / "data").mkdir(parents=True)
        run(["git", "init", "-q"], project)
        run(["dvc", "init", "-q"], project)
        run(["dvc", "config", "core.check_update", "false"], project)  # as in our own .dvc/config
        for s in range(sequences):
            images = [rng.bytes(2000) for _ in range(frames // sequences)]
            if kind == "archives":
                with zipfile.ZipFile(project / "data" / f"{s}.zip", "w") as archive:
                    for t, data in enumerate(images):
                        archive.writestr(f"{t:06d}.jpg", data)
            else:
                (project / "data" / str(s)).mkdir()
                for t, data in enumerate(images):
                    (project / "data" / str(s) / f"{t:06d}.jpg").write_bytes(data)
        (project / "dvc.yaml").write_text("stages:\n  s:\n    cmd: echo 1 > out\n    deps: [data]\n    outs: [out]\n")
        run(["dvc", "repro", "-q"], project)
        sides.append(partial(idle, project))
    return sides[0], sides[1]


def idle(project: Path) -> None:
    run(["dvc", "status"], project)
    run(["dvc", "repro"], project)


def run(command: list[str], folder: Path) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "DVC_NO_ANALYTICS": "1"}
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)


ROWS = [
    Row("scores", "J and F a frame", "NumPy and SciPy, the definition array by array", "10", scores, 5),
    Row("joint_step", "joint step, one sampled cell", "exact sum over all live cells, same batch", "20; memory 10",
        joint_step, 2, memory=True),
    Row("stabilize", "stabilizing a sequence", "keypoints detected anew for each pair", "1.6", stabilize, 15),
    Row("flownet", "FlowNet2, a pair of 448 x 256", "ptlflow as it comes, no extension", "2; memory 10", flownet, 3,
        memory=True),
    Row("crf", "CRF over 48 frames of 640 x 360", "one process", "1.8 on 2 cores", crf, 7),
    Row("inference", "a mask at 640 x 360", "torchvision's Mask R-CNN R50-FPN, same threads", "10", inference, 7),
    Row("predict", f"predict: {PREDICTED} frames of 640 x 360, file to PNG", "u2netp (rembg), decoded alike",
        "20 frames/s on 2 cores", prediction, 3, frames=PREDICTED),
    Row("predict_720p", f"predict: {PREDICTED} frames of 1280 x 720, file to PNG", "u2netp (rembg), decoded alike",
        "20 frames/s on 2 cores", partial(prediction, size=(1280, 720)), 3, frames=PREDICTED),
    Row("data", "training step", "the same with its data in memory", "0.95", data_waits, 5),
    Row("dvc", "dvc status and idle repro, 20,000 frames", "one file a frame", "2.5", dvc, 5),
]  # fmt: skip


# Measuring --------------------------------------------------------------------------------------------


def measure(row: Row) -> dict[str, Any]:
    """Seconds of both sides in turns, after one warm-up of each (see `Row.frames`); their ratio, and that of memory."""
    with tempfile.TemporaryDirectory(prefix="backdrop-bench-") as folder:
        sides, clock = row.make(Path(folder)), time.process_time if row.frames else time.perf_counter
        seconds: list[list[float]] = [[], []]
        for turn in range(-1, row.rounds):
            for side, times in zip(sides, seconds, strict=True):
                gc.collect()
                start = clock()
                side()
                if turn >= 0:
                    times.append(clock() - start)
    ours, theirs = (median(times) for times in seconds)
    result: dict[str, Any] = {"name": row.name, "ours_s": ours, "theirs_s": theirs, "ratio": theirs / ours}
    if row.frames:
        result["ours_ms_per_frame"], result["theirs_ms_per_frame"] = (1000 * t / row.frames for t in (ours, theirs))
    if row.memory:
        grown = [growth(row.name, side) for side in (0, 1)]
        result |= {"ours_MB": grown[0], "theirs_MB": grown[1], "memory_ratio": grown[1] / grown[0]}
    return result


def growth(name: str, side: int) -> float:
    """MB by which the largest resident set grows when one side runs once, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.bench", "--grow", name, str(side)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return float(done.stdout.splitlines()[-1])


def grow(name: str, side: int) -> None:
    row = next(row for row in ROWS if row.name == name)
    with tempfile.TemporaryDirectory(prefix="backdrop-bench-") as folder:
        run_side = row.make(Path(folder))[side]
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew: to build it all may have taken more
        before = resident("VmRSS")
        run_side()
        print(max(1, resident("VmHWM") - before) / 1024)


def resident(key: str) -> int:
    """kB of this process, by the kernel: VmRSS now, VmHWM at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(f"{key}:")))


def table(results: list[dict[str, Any]]) -> str:
    rows = {row.name: row for row in ROWS}
    lines = ["| what | against | reach | measured | ours | theirs |", "|---|---|---|---|---|---|"]
    for result in results:
        row = rows[result["name"]]
        ratio, sides = f"{result['ratio']:.2f}", [f"{result[f'{side}_s']:.3f} s" for side in ("ours", "theirs")]
        if "ours_ms_per_frame" in result:
            sides = [f"{result[f'{side}_ms_per_frame']:.0f} core ms a frame" for side in ("ours", "theirs")]
        if "memory_ratio" in result:
            ratio += f"; memory {result['memory_ratio']:.1f}"
            sides = [f"{text}, {result[f'{s}_MB']:.0f} MB" for text, s in zip(sides, ("ours", "theirs"), strict=True)]
        lines.append(f"| {row.what} | {row.against} | {row.reach} | {ratio} | {sides[0]} | {sides[1]} |")
    return "\n".join(lines)


def profile() -> list[str]:
    """Why rows fall short: what the CRF's processes do, what DVC takes with nothing to look at, what gradients take."""
    lines = []
    with tempfile.TemporaryDirectory(prefix="backdrop-bench-") as folder:
        both, alone = crf(Path(folder))
        both()
        turns = [(used(alone)[0], *used(both)) for _ in range(3)]
        busy = median(cpu / 2 / took for _, took, cpu in turns)
        ratio = median(one / took for one, took, _ in turns)
        lines.append(f"CRF: two processes busy {busy:.2f} of the time, {ratio:.2f} times less time than one")
        slower = median(median(at_once(2)) / at_once(1)[0] for _ in range(2))
        lines.append(f"CRF: two programs at once that share nothing are {2 / slower:.2f} times faster than one by one")
    with tempfile.TemporaryDirectory(prefix="backdrop-bench-") as folder:
        ours, _ = dvc(Path(folder))
        empty = Path(folder) / "archives"
        full = median(used(ours)[0] for _ in range(3))
        for path in (empty / "data").iterdir():
            path.unlink()
        (empty / "data" / "a").touch()
        run(["dvc", "repro", "-q"], empty)
        least = median(used(partial(idle, empty))[0] for _ in range(3))
        lines.append(f"dvc: with a single empty file {least / full:.2f} of the time with the archives")
    with tempfile.TemporaryDirectory(prefix="backdrop-bench-") as folder:
        model = joint_model(chosen(Path(folder), "paper=p2021"))
        size = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
        lines.append(f"joint step: gradients take {size / 2**20:.0f} MB, whatever the sampling")
    return lines


ALONE = """
import sys, tempfile, time
from pathlib import Path
from benchmarks.bench import crf
with tempfile.TemporaryDirectory(prefix="backdrop-bench-") as folder:
    _, alone = crf(Path(folder))
    alone()
    print("ready", flush=True)
    sys.stdin.readline()
    start = time.perf_counter()
    alone()
    print(time.perf_counter() - start)
"""


def at_once(count: int) -> list[float]:
    """Seconds of the CRF by one process, in so many programs that begin together."""
    programs = [
        subprocess.Popen(
            [sys.executable, "-c", ALONE], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(count)
    ]
    for program in programs:
        assert program.stdout is not None
        program.stdout.readline()
    for program in programs:
        assert program.stdin is not None
        program.stdin.write("\n")
        program.stdin.flush()
    return [float(program.communicate()[0]) for program in programs]


def used(side: Side) -> tuple[float, float]:
    """Seconds of one run, and the processor seconds of the processes that this one has started."""
    children = psutil.Process().children()
    before = sum(sum(child.cpu_times()[:2]) for child in children)
    start = time.perf_counter()
    side()
    took = time.perf_counter() - start
    return took, sum(sum(child.cpu_times()[:2]) for child in children) - before


def machine() -> str:
    """Its processor, cores and PyTorch's threads."""
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.is_file() else []
    name = names[0].split(":")[1].strip() if names else platform.processor()
    return f"{name}, {len(os.sched_getaffinity(0))} cores, {torch.get_num_threads()} threads"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=[row.name for row in ROWS])
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "bench.json")
    parser.add_argument("--profile", action="store_true", help="say why rows fall short, and nothing else")
    parser.add_argument("--grow", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.grow:
        grow(args.grow[0], int(args.grow[1]))
        return
    if args.profile:
        print("\n".join(profile()))
        return
    results = []
    for row in ROWS:
        if not args.only or row.name in args.only:
            print(f"{row.name} ...", file=sys.stderr, flush=True)
            results.append(measure(row))
    print(f"{date.today()}, {machine()}\n\n{table(results)}")
    with atomic_path(args.out) as temporary:
        content = {"date": str(date.today()), "machine": machine(), "rows": results}
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
