"""Time, memory and disk of each stage against the number of frames: the embedded footage 1, 10 and 100 times.

    python -m benchmarks.growth                                    # 40, 400 and 4,000 frames of 160 x 96
    python -m benchmarks.growth --size 320 192 --times 1 10        # what a frame of the demo's size costs
    python -m benchmarks.growth --length 30 --budget 100           # 120, 1,200, 12,000 frames, 100 of them to train on

The footage is rendered once; more of it are hard links to the same videos under other names: growth takes no disk but
for what the stages write. Each stage runs by its command line of dvc.yaml in a folder of its own. Training runs as few
iterations at any size: what grows with the frames is what it does around them. Time is the processor's, of the stage
and of what it started: other work on the machine hardly changes it. Memory is the largest sum, over the
stage's processes, of the pages that are theirs (a page that several share is divided among them; pages of files do not
count), at most four times a second.
Prints a table; writes benchmarks/growth_<size>[_length<n>][_budget<n>].json. A stage that was measured is not run
again: stopped, it goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import yaml

from backdrop.io.files import atomic_path
from backdrop.io.index import read_videos
from backdrop.params import compose_params
from benchmarks.bench import machine

ROOT = Path(__file__).resolve().parent.parent
LENGTH = 10
"""Frames of a video, if nothing else is asked for."""
BY_VIDEO = ("score", "report")
"""What they leave on disk are pictures and rows of videos, as large for a long video as for a short one."""
FEW = [
    "footage.train=2",
    "footage.val=1",
    "footage.test=1",
    "inpainter.iterations=10",
    "train.detector_iterations=4",
    "train.synthesis_iterations=4",
    "train.iterations=4",
    "student.iterations=4",
]
"""Enough that every phase of training runs."""


def commands() -> dict[str, list[list[str]]]:
    """Stage -> its command lines in dvc.yaml, a matrix written out."""
    found: dict[str, list[list[str]]] = {}
    for name, stage in yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"].items():
        kinds = stage.get("matrix", {}).get("kind", [""])
        found[name] = [shlex.split(stage["cmd"].replace("${item.kind}", kind)) for kind in kinds]
    return found


def link(footage: Path, target: Path, times: int) -> None:
    """`times` as much footage by hard links: name.mp4 and its truth, name_1.mp4, name_2.mp4, ..."""
    for path in sorted(footage.rglob("*")):
        if path.is_file():
            folder = target / path.parent.relative_to(footage)
            folder.mkdir(parents=True, exist_ok=True)
            for k in range(times):
                copy = folder / f"{path.stem}{f'_{k}' if k else ''}{path.suffix}"
                if not copy.exists():
                    os.link(path, copy)


def measure(command: list[str], folder: Path) -> dict[str, float]:
    """Processor seconds and MB of one command."""
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    words = [sys.executable, str(ROOT / command[1]), *command[2:]]
    peak = 0
    with (folder / "log.txt").open("ab") as log:
        process = subprocess.Popen(words, cwd=folder, env=env, stdout=log, stderr=log)
        while (found := os.wait4(process.pid, os.WNOHANG))[0] == 0:
            began = time.perf_counter()
            peak = max(peak, resident(process.pid))
            # a look at large processes takes the kernel long: at most a twentieth of a core goes into looking
            time.sleep(max(0.25, 20 * (time.perf_counter() - began)))
    _, status, used = found
    if status:
        code = os.waitstatus_to_exitcode(status)
        raise SystemExit(f"error: {shlex.join(command)} ended with {code}: see {folder / 'log.txt'}")
    return {"seconds": used.ru_utime + used.ru_stime, "MB": peak / 1e6}


def resident(pid: int) -> int:
    """Bytes of a process and of those that it started, without pages of files: the kernel can drop these."""
    total = 0
    with suppress(psutil.Error):
        for process in (top := psutil.Process(pid), *top.children(recursive=True)):
            with suppress(OSError):
                rows = Path(f"/proc/{process.pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
                total += sum(1024 * int(row.split()[1]) for row in rows if row.startswith(("Pss_Anon:", "Pss_Shmem:")))
    return total


def disk(folder: Path) -> float:
    """MB below a folder, what is linked from elsewhere apart."""
    files = (path for path in folder.rglob("*") if path.is_file() and "footage" not in path.parts)
    return sum(path.stat().st_size for path in files) / 1e6


def grow(times: int, work: Path, footage: Path, *, changes: list[str], done: dict[str, Any], save: Any) -> None:
    """All stages but render on `times` as much footage; `save()` is called after each."""
    folder = work / f"x{times}"
    folder.mkdir(parents=True, exist_ok=True)
    compose_params(changes, folder / "params.yaml", ROOT / "conf")
    link(footage, folder / "data" / "footage", times)
    for name, lines in commands().items():
        if name == "render" or name in done:
            continue
        print(f"{times} times: {name} ...", file=sys.stderr, flush=True)
        before = disk(folder)
        parts = [measure(line, folder) for line in lines]
        frames = int(read_videos(folder / "data" / "frames")["frames"].sum())
        done[name] = {
            "frames": frames,
            "seconds": sum(part["seconds"] for part in parts),
            "MB": max(part["MB"] for part in parts),
            "disk_MB": disk(folder) - before,
        }
        save()


def table(runs: dict[str, dict[str, Any]]) -> str:
    """A row a stage; a column of seconds, MB of memory and MB of disk for each size."""
    sizes = [f"{next(iter(stages.values()))['frames']:,} frames" for stages in runs.values()]
    lines = [f"| stage | {' | '.join(sizes)} |", "|---|" + "---|" * len(sizes)]
    for name in next(iter(runs.values())):
        cells = [stages[name] for stages in runs.values() if name in stages]
        texts = [f"{c['seconds']:.0f} s, {c['MB']:.0f} MB, {c['disk_MB']:.1f} MB on disk" for c in cells]
        lines.append(f"| {name} | {' | '.join(texts)} |")
    return "\n".join(lines)


def plan(runs: dict[str, dict[str, Any]], length: int, frames: int, videos: int) -> str:
    """A row a stage: core hours and GB for so many frames in so many videos, by what a frame (of pictures, a video
    of `length` frames) more costs from the smallest run to the largest."""
    least, most = (runs[str(times)] for times in (min(map(int, runs)), max(map(int, runs))))
    lines = ["| stage | core ms a frame | core hours | kB a frame | GB |", "|---|---|---|---|---|"]
    hours = gigabytes = 0.0
    for name, end in most.items():
        begin = least[name]
        more = end["frames"] - begin["frames"]
        took, room = (max(0.0, end[key] - begin[key]) / more for key in ("seconds", "disk_MB"))
        own = took * frames / 3600, room * (length * videos if name in BY_VIDEO else frames) / 1000
        each = "by video" if name in BY_VIDEO else f"{1000 * room:.1f}"
        lines.append(f"| {name} | {1000 * took:.0f} | {own[0]:,.0f} | {each} | {own[1]:,.0f} |")
        hours, gigabytes = hours + own[0], gigabytes + own[1]
    return "\n".join([*lines, f"| all | {3.6e6 * hours / frames:,.0f} | {hours:,.0f} | | {gigabytes:,.0f} |"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", nargs="+", type=int, default=[1, 10, 100])
    parser.add_argument("--size", nargs=2, type=int, default=[160, 96], help="of the footage and of the student")
    parser.add_argument("--length", type=int, default=LENGTH, help="frames of a video")
    parser.add_argument("--budget", type=int, default=0, help="data.budget; 0: all frames are stored and trained on")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "growth")
    parser.add_argument("--plan", nargs=2, type=int, metavar=("FRAMES", "VIDEOS"), help="also what these would take")
    args = parser.parse_args()
    size = "x".join(map(str, args.size))
    name = size + (f"_length{args.length}" if args.length != LENGTH else "")
    name += f"_budget{args.budget}" if args.budget else ""
    work = args.work.resolve() / name
    state = work / "state.json"
    runs: dict[str, dict[str, Any]] = json.loads(state.read_text()) if state.is_file() else {}

    def save() -> None:
        with atomic_path(state) as temporary:
            temporary.write_text(json.dumps(runs))

    footing = [f"footage.frames={args.length}", f"data.budget={args.budget}"]
    changes = [*FEW, *footing, *(f"{key}=[{args.size[0]},{args.size[1]}]" for key in ("footage.size", "student.size"))]
    footage = work / "once" / "data" / "footage"
    if not footage.is_dir():
        (work / "once").mkdir(parents=True, exist_ok=True)
        compose_params(changes, work / "once" / "params.yaml", ROOT / "conf")
        measure(commands()["render"][0], work / "once")
    for times in sorted(args.times):
        grow(times, work, footage, changes=changes, done=runs.setdefault(str(times), {}), save=save)
    shown = {times: runs[times] for times in map(str, sorted(args.times))}
    print(f"{machine()}, frames of {size}\n\n{table(shown)}")
    if args.plan:
        frames, videos = args.plan
        print(f"\n{frames:,} frames in {videos:,} videos\n\n{plan(shown, args.length, frames, videos)}")
    with atomic_path(ROOT / "benchmarks" / f"growth_{name}.json") as temporary:
        temporary.write_text(json.dumps({"machine": machine(), "runs": shown}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
