"""Each sequence of a data set trained on and scored on itself, in a run of its own: scores and CPU minutes.

    python -m benchmarks.sequences davis2016 /path/to/DAVIS2016
    python -m benchmarks.sequences cdnet2014 /path/to/CDnet2014 --only badminton zoomInZoomOut
    python -m benchmarks.sequences davis2016 /path/to/DAVIS2016 --scale gpu --jobs 8    # on a GPU, 640 x 360

Runs the stages of dvc.yaml, with their command lines, in a folder a sequence under runs/sequences/, so that neither
params.yaml nor the workspace's own data change. A sequence that is done is not run again (--again). Writes a table to
standard output and all figures to benchmarks/sequences_<data>.json.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Any

import yaml

from backdrop.errors import BackdropError
from backdrop.frames.layouts import list_sequences
from backdrop.params import compose_params, read

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ("method", "method_raw", "method_paper", "method_paper_raw", "flow_threshold", "mog2")
COMPOSING = Lock()  # Hydra keeps its state in one place
EXTERNAL = ("render",)  # makes the embedded footage, which no other data set needs


def commands() -> list[tuple[str, str]]:
    """(stage, shell command) in the order of dvc.yaml, one for each item of a matrix."""
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    found = []
    for name, stage in stages.items():
        if name in EXTERNAL:
            continue
        for item in stage.get("matrix", {"": [""]}).popitem()[1]:
            command = re.sub(r"\$\{item\.\w+\}", str(item), stage["cmd"])
            found.append((f"{name}@{item}" if item else name, re.sub(r"\bstages/", f"{ROOT}/stages/", command)))
    return found


def run_one(data: str, root: str, name: str, folder: Path, *, scale: str, overrides: list[str]) -> dict[str, Any]:
    """All stages for one sequence; its scores and CPU minutes.

    Raises:
        BackdropError: a stage failed; names its log.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    chosen = [f"data={data}", f"data.root={root}", f'data.only=["{name}"]', "data.protocol=self", f"scale={scale}"]
    with COMPOSING:
        compose_params([*chosen, "compute.workers=1", *overrides], folder / "params.yaml", ROOT / "conf")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    minutes: dict[str, float] = {}
    for stage, command in commands():
        with (folder / f"{stage}.log").open("w") as log:
            # wait4 gives the CPU time of this child and all it waited for, whatever else runs beside it
            child = subprocess.Popen(
                ["/bin/sh", "-c", command], cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT
            )
            _, status, usage = os.wait4(child.pid, 0)
        minutes[stage] = (usage.ru_utime + usage.ru_stime) / 60
        if status:
            raise BackdropError(f"stage {stage} failed; see {folder / f'{stage}.log'}")
    scores = json.loads((folder / "metrics" / "scores.json").read_text(encoding="utf-8"))
    seed = read(folder / "params.yaml").seed
    result = {"sequence": name, "seed": seed, "cpu_minutes": sum(minutes.values()), "stages": minutes, "scores": scores}
    (folder / "result.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return result


def table(results: list[dict[str, Any]]) -> str:
    """Markdown: J / F of what ships, of its parts and of the baselines, a row a sequence, and their mean."""
    head = ["sequence", *RESULTS, "beats both", "CPU min"]
    rows, cells = [], []
    for result in results:
        scores = result["scores"] | result["scores"]["baselines"]
        pairs = [(scores[key]["J_mean"], scores[key]["F_mean"]) for key in RESULTS]
        beats = pairs[0][0] > max(pairs[-1][0], pairs[-2][0])
        cells.append([*pairs, beats, result["cpu_minutes"]])
        marks = [f"{j:.2f} / {f:.2f}" for j, f in pairs]
        rows.append([result["sequence"], *marks, "yes" if beats else "no", f"{result['cpu_minutes']:.1f}"])
    count = len(cells)
    means = [tuple(sum(row[k][i] for row in cells) / count for i in (0, 1)) for k in range(len(RESULTS))]
    last = [f"{j:.3f} / {f:.3f}" for j, f in means]
    spent = sum(row[-1] for row in cells) / count
    rows.append(["**mean**", *last, f"{sum(row[-2] for row in cells)} of {count}", f"{spent:.1f}"])
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="a file of conf/data/: davis2016, cdnet2014, bms26, ...")
    parser.add_argument("root", type=Path, help="the data set's folder")
    parser.add_argument("--only", nargs="*", help="names of sequences; default: all")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="sequences at a time, a core each")
    parser.add_argument("--scale", default="sequence", help="a file of conf/scale/: sequence, gpu")
    parser.add_argument("--set", nargs="*", default=[], help="further overrides, as for dvc exp run -S")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "sequences")
    parser.add_argument("--out", type=Path, help="default: benchmarks/sequences_<data>[_<scale>].json")
    parser.add_argument("--again", action="store_true", help="run sequences anew that are done")
    args = parser.parse_args()
    layout = yaml.safe_load((ROOT / "conf" / "data" / f"{args.data}.yaml").read_text(encoding="utf-8"))["layout"]
    root = args.root.resolve()
    names = [s.name for s in list_sequences(layout, root) if not args.only or s.name in args.only]

    def one(name: str) -> dict[str, Any] | None:
        folder = args.work.resolve() / args.scale / name
        done = folder / "result.json"
        try:
            if args.again or not done.is_file():
                run_one(args.data, str(root), name, folder, scale=args.scale, overrides=args.set)
            print(f"done: {name}", file=sys.stderr, flush=True)
            return json.loads(done.read_text(encoding="utf-8"))
        except (BackdropError, OSError) as problem:
            print(f"error: {name}: {problem}", file=sys.stderr, flush=True)
            return None

    with ThreadPoolExecutor(args.jobs) as pool:
        results = [result for result in pool.map(one, names) if result is not None]
    if not results:
        sys.exit(f"error: no sequence of {root} was scored")
    print(table(results))
    suffix = "" if args.scale == "sequence" else f"_{args.scale}"
    out = args.out or ROOT / "benchmarks" / f"sequences_{args.data}{suffix}.json"
    out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    if len(results) < len(names):
        sys.exit(1)


if __name__ == "__main__":
    main()
