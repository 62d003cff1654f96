"""Each sequence of a data set trained on and scored on itself, in a run of its own: scores and CPU minutes.

    python -m benchmarks.sequences davis2016 /path/to/DAVIS2016
    python -m benchmarks.sequences cdnet2014 /path/to/CDnet2014 --only badminton zoomInZoomOut
    python -m benchmarks.sequences davis2016 /path/to/DAVIS2016 --scale gpu --jobs 8    # on a GPU, 640 x 360
    python -m benchmarks.sequences davis2016 /path/to/DAVIS2016-train --ablate # and a row for each part of the student
    python -m benchmarks.sequences davis2016 /path/to/DAVIS2016-train --scale first_round
    python -m benchmarks.sequences davis2016 /path/to/DAVIS2016-train --scale d_and_s --masks first_round # of that run

Runs the stages of dvc.yaml, with their command lines, in a folder a sequence under runs/sequences/, so that neither
params.yaml nor the workspace's own data change. A sequence that is done is not run again (--again). Writes a table to
standard output and all figures to benchmarks/sequences_<data>.json. T is the instability of the outlines over time; the
interval is a bootstrap over sequences.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import yaml
from scipy.stats import bootstrap

from backdrop.errors import BackdropError
from backdrop.frames.layouts import list_sequences
from backdrop.io.masks import MaskArchive, Predictions
from backdrop.params import compose_params, read
from backdrop.report.scores import result_of
from backdrop.thresholds import best_threshold, jaccard_grid
from benchmarks.temporal import temporal_instability

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ("method", "method_raw", "d_and_s", "d_and_s_raw", "flow_threshold", "mog2")
COMPOSING = Lock()  # Hydra keeps its state in one place
FURTHER = ("precision", "recall", "T")
BEFORE_STUDENT = (
    "data/frames",
    "data/homographies",
    "data/flow",
    "models/inpainter_rgb",
    "models/inpainter_flow",
    "models/joint",
)
SHIPPED = "what ships"
ABLATION: dict[str, list[str]] = {
    SHIPPED: [],
    "without the motion network": ["student.cues=[layers,median,mog2,fast_motion,nlc]"],
    "without layers": ["student.cues=[motion,median,mog2,fast_motion,nlc]"],
    "without the median": ["student.cues=[motion,layers,mog2,fast_motion,nlc]"],
    "without MOG2": ["student.cues=[motion,layers,median,fast_motion,nlc]"],
    "without fast motion segmentation": ["student.cues=[motion,layers,median,mog2,nlc]"],
    "without non-local consensus voting": ["student.cues=[motion,layers,median,mog2,fast_motion]"],
    "without both": ["student.cues=[motion,layers,median,mog2]"],
    "cues weigh alike": ["student.consensus=0"],
    "one round": ["student.rounds=1"],
    "D is not asked": ["student.gate=0"],
    "subjects never rest": ["student.resting=false"],
}
"""Changes of the student, a row each."""
OUTSIDE = ("student.prior=", "encoder.weights=", "encoder.perceptual=")
"""What lets a model from outside take part, which may have learned from labels."""
EXTERNAL = ("render",)  # makes the embedded footage, which no other data set needs


def rows_of(ablate: list[str] | None) -> list[tuple[str, list[str]]]:
    """(name, changes) of what ships and of the rows asked for: none without an ablation, all where none is named."""
    named = [] if ablate is None else ablate or list(ABLATION)
    return [(name, changes) for name, changes in ABLATION.items() if name == SHIPPED or name in named]


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


def run_one(
    data: str,
    root: str,
    name: str,
    folder: Path,
    *,
    scale: str,
    overrides: list[str],
    base: Path | None = None,
    first: str | None = None,
) -> dict[str, Any]:
    """All stages for one sequence; its scores and CPU minutes.

    Args:
        first: the scale of the same sequence's earlier run. Its masks keep the subject out of the background, and the
            threshold is the one that agrees best with them.
        base: folder of the same sequence's run with other settings of the student. What comes before the student is
            taken from there.

    Raises:
        BackdropError: a stage failed; names its log.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    chosen = [f"data={data}", f"data.root={root}", f'data.only=["{name}"]', "data.protocol=self", f"scale={scale}"]
    given = None if first is None else first_masks(first, name, folder)
    chosen += ["compute.workers=1"] if given is None else ["compute.workers=1", f"background.masks={given}"]
    _compose([*chosen, *overrides], folder)
    minutes = {} if base is None else _take_over(base, folder)
    stages = [stage for stage, _ in commands() if stage not in minutes]
    if given is not None:
        before = stages.index("segment") + 1
        minutes |= run_stages(folder, stages[:before])
        threshold = agreeing_threshold(folder / "data" / "predictions" / f"{name}.zip", given / f"{name}.zip")
        _compose([*chosen, f"segment.threshold={threshold}", *overrides], folder)
        stages = stages[before - 1 :]  # segment writes the threshold
    minutes |= run_stages(folder, stages)
    scores = json.loads((folder / "metrics" / "scores.json").read_text(encoding="utf-8"))
    masks = MaskArchive(folder / "data" / "masks" / f"{name}.zip")
    scores["method"]["T"] = temporal_instability([masks.gray(t) > 127 for t in range(len(masks))])
    seed = read(folder / "params.yaml").seed
    result = {"sequence": name, "seed": seed, "overrides": overrides, "cpu_minutes": sum(minutes.values())}
    result |= {"masks": first, "stages": minutes, "scores": scores}
    (folder / "result.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return result


def _compose(overrides: list[str], folder: Path) -> None:
    """The parameters of a run, as `dvc exp run -S` composes them."""
    with COMPOSING:
        compose_params(overrides, folder / "params.yaml", ROOT / "conf")


def agreeing_threshold(predictions: Path, masks: Path) -> float:
    """The threshold at which soft masks agree best with other masks of the sequence, frame by frame: best mean J.

    No truth is read. Masks that keep close to what a background explains are unsure where the subject looks like it.

    Args:
        predictions, masks: archives of one sequence. Frames in which the masks are empty do not count.
    """
    soft, given = Predictions(predictions), MaskArchive(masks)
    times = [t for t in range(len(soft)) if given.has(t) and (given.gray(t) > 127).any()]
    grids = [jaccard_grid(soft.soft(t), given.gray(t) > 127) for t in times]
    return best_threshold([np.array(grids)]) if grids else 0.5


def first_masks(scale: str, name: str, folder: Path) -> Path:
    """The masks of a sequence's run at another scale.

    Raises:
        BackdropError: it has none.
    """
    found = folder.parent.parent / scale / name / "data" / "masks"
    if not found.is_dir():
        raise BackdropError(f"{found} is not there; run the same command with --scale {scale} first")
    return found


def run_stages(folder: Path, names: Collection[str]) -> dict[str, float]:
    """Run some stages in a folder that has a params.yaml, in their order and with one thread; the CPU minutes of each.

    Raises:
        BackdropError: a stage failed; names its log.
    """
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    minutes: dict[str, float] = {}
    for stage, command in commands():
        if stage not in names:
            continue
        with (folder / f"{stage}.log").open("w") as log:
            # wait4 gives the CPU time of this child and all it waited for, whatever else runs beside it
            child = subprocess.Popen(
                ["/bin/sh", "-c", command], cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT
            )
            _, status, usage = os.wait4(child.pid, 0)
        minutes[stage] = (usage.ru_utime + usage.ru_stime) / 60
        if status:
            raise BackdropError(f"stage {stage} failed; see {folder / f'{stage}.log'}")
    return minutes


def _take_over(base: Path, folder: Path) -> dict[str, float]:
    """Link what the stages before the student made; their CPU minutes."""
    for place in BEFORE_STUDENT:
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        (folder / place).symlink_to(base / place)
    minutes = json.loads((base / "result.json").read_text(encoding="utf-8"))["stages"]
    first = list(minutes).index("student")
    return dict(list(minutes.items())[:first])


def interval(values: list[float]) -> tuple[float, float]:
    """95 % bootstrap interval (percentiles) of the mean over sequences."""
    if np.isnan(values).any():
        return float("nan"), float("nan")
    if len(set(values)) < 2:
        return values[0], values[0]
    found = bootstrap((values,), np.mean, method="percentile", rng=np.random.default_rng(0)).confidence_interval
    return float(found.low), float(found.high)


def table(results: list[dict[str, Any]]) -> str:
    """Markdown: J / F of what ships, of its parts and of the baselines, a row a sequence, their mean, its interval."""
    head = ["sequence", *RESULTS, *FURTHER, "beats both", "CPU min"]
    rows, cells = [], []
    for result in results:
        scores = [result_of(result["scores"], key) or {} for key in RESULTS]
        unknown = dict.fromkeys(("J_mean", "F_mean"), float("nan"))  # of baselines, on a budget
        pairs = [(one["J_mean"], one["F_mean"]) for one in (unknown | dict(one) for one in scores)]
        further = [scores[0].get(key, float("nan")) for key in FURTHER]
        beats = all(pairs[0][0] > other for other, _ in pairs[-2:])
        minutes = float("nan") if result["cpu_minutes"] is None else result["cpu_minutes"]  # a run that was cut off
        cells.append([*pairs, *further, beats, minutes])
        marks = [*(f"{j:.2f} / {f:.2f}" for j, f in pairs), *(f"{value:.2f}" for value in further)]
        rows.append([result["sequence"], *marks, "yes" if beats else "no", f"{minutes:.1f}"])
    columns = list(zip(*cells, strict=True))
    both = columns[: len(RESULTS)]
    pooled = [tuple(float(np.mean([pair[i] for pair in column])) for i in (0, 1)) for column in both]
    marks = [f"{j:.3f} / {f:.3f}" for j, f in pooled] + [f"{_mean(c):.3f}" for c in columns[len(RESULTS) : -2]]
    rows.append(["**mean**", *marks, f"{sum(columns[-2])} of {len(cells)}", f"{_mean(columns[-1]):.1f}"])
    ranges = ["{:.2f} to {:.2f}".format(*interval([pair[0] for pair in column])) for column in both]
    rows.append(["95 % of J", *ranges, *[""] * (len(FURTHER) + 2)])
    lines = [head, ["---"] * len(head), *rows]
    found = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    outside = {change for one in results for change in one.get("overrides", []) if change.startswith(OUTSIDE)}
    return (
        f"{found}\n\nA model from outside took part ({', '.join(sorted(outside))}): supervised." if outside else found
    )


def _mean(values: tuple[float, ...]) -> float:
    """Of the numbers among them; NaN where there is none."""
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")


def ablation_table(rows: dict[str, list[dict[str, Any]]]) -> str:
    """Markdown: a row for each change of the student: mean J / F, gain of J over what ships with its interval, minutes.

    Only sequences that every row has are counted.
    """
    common = set.intersection(*({one["sequence"] for one in results} for results in rows.values()))
    lines = ["| | J / F | J against what ships | CPU min |", "|---|---|---|---|"]
    shipped = {one["sequence"]: one["scores"]["method"]["J_mean"] for one in rows[SHIPPED]}
    for name, results in rows.items():
        kept = [one for one in results if one["sequence"] in common]
        j, f = (float(np.mean([one["scores"]["method"][key] for one in kept])) for key in ("J_mean", "F_mean"))
        gains = [one["scores"]["method"]["J_mean"] - shipped[one["sequence"]] for one in kept]
        against = "" if name == SHIPPED else "{:+.3f} ({:+.3f} to {:+.3f})".format(np.mean(gains), *interval(gains))
        minutes = float(np.mean([one["cpu_minutes"] for one in kept]))
        lines.append(f"| {name} | {j:.3f} / {f:.3f} | {against} | {minutes:.1f} |")
    return "\n".join([*lines, f"\n{len(common)} sequences."])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="a file of conf/data/: davis2016, cdnet2014, bms26, ...")
    parser.add_argument("root", type=Path, help="the data set's folder")
    parser.add_argument("--only", nargs="*", help="names of sequences; default: all")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="sequences at a time, a core each")
    parser.add_argument("--scale", default="sequence", help="a file of conf/scale/: sequence, gpu")
    parser.add_argument("--masks", metavar="SCALE", help="background.masks are those of the run at this scale")
    parser.add_argument("--set", nargs="*", default=[], help="further overrides, as for dvc exp run -S")
    parser.add_argument(
        "--ablate", nargs="*", choices=list(ABLATION)[1:], help="also a row for each part of the student, or for these"
    )
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "sequences")
    parser.add_argument("--out", type=Path, help="default: benchmarks/sequences_<data>[_<scale>].json")
    parser.add_argument("--again", action="store_true", help="run sequences anew that are done")
    args = parser.parse_args()
    layout = yaml.safe_load((ROOT / "conf" / "data" / f"{args.data}.yaml").read_text(encoding="utf-8"))["layout"]
    root = args.root.resolve()
    names = [s.name for s in list_sequences(layout, root) if not args.only or s.name in args.only]

    def one(name: str, row: str, changes: list[str]) -> dict[str, Any] | None:
        work = args.work.resolve() / args.scale
        base = None if row == SHIPPED else work / name
        folder = work / name if base is None else work / f"{name} {row}"
        done, overrides = folder / "result.json", [*args.set, *changes]
        try:
            if args.again or not _same_run(done, overrides, args.masks):
                run_one(
                    args.data, str(root), name, folder,
                    scale=args.scale, overrides=overrides, base=base, first=args.masks,
                )  # fmt: skip
            print(f"done: {name}, {row}", file=sys.stderr, flush=True)
            return json.loads(done.read_text(encoding="utf-8"))
        except (BackdropError, OSError) as problem:
            print(f"error: {name}, {row}: {problem}", file=sys.stderr, flush=True)
            return None

    rows: dict[str, list[dict[str, Any]]] = {}
    for row, changes in rows_of(args.ablate):
        with ThreadPoolExecutor(args.jobs) as pool:
            found = pool.map(partial(one, row=row, changes=changes), names)
            rows[row] = [result for result in found if result is not None]
        if not rows[row]:
            sys.exit(f"error: no sequence of {root} was scored: {row}")
    print(table(rows[SHIPPED]))
    suffix = ("" if args.scale == "sequence" else f"_{args.scale}") + ("" if args.masks is None else "_masks")
    out = args.out or ROOT / "benchmarks" / f"sequences_{args.data}{suffix}.json"
    out.write_text(json.dumps(rows[SHIPPED], indent=1) + "\n", encoding="utf-8")
    if args.ablate is not None:
        print("\n" + ablation_table(rows))
        out.with_name(f"{out.stem}_ablation.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    if any(len(results) < len(names) for results in rows.values()):
        sys.exit(1)


def _same_run(done: Path, overrides: list[str], masks: str | None = None) -> bool:
    """Whether a result is there that was made with these overrides, and with such masks."""
    if not done.is_file():
        return False
    before = json.loads(done.read_text(encoding="utf-8"))
    return (before.get("overrides"), before.get("masks")) == (overrides, masks)


if __name__ == "__main__":
    main()
