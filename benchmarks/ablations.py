"""The ablation grids: each row as a DVC experiment, and docs/ablations.md written from the results.

`make ablations`, or `python -m benchmarks.ablations`; `--grid papers` or `ours` (both, where it is left out; the rows
are in `benchmarks.ablation_grids`), `--rows a,b`, `--seeds 0,1`, `--table-only`, `--anew`, `--encoder-weights FOLDER`,
`--jobs 2` (experiments at a time, a thread each).

Every row and seed is one `dvc exp run --temp`: a temporary checkout as in DVC's queue, with the workspace's cache, so
that stages which a row does not change are restored. The queue itself is not used because its worker replaces
PYTHONPATH, and stages would then import the installed library in place of the checkout's. Rows whose experiment exists
for this commit, code and parameters are not run again; after Ctrl-C the same command goes on.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from tqdm import tqdm

from backdrop.errors import BackdropError
from backdrop.params import compose_params
from benchmarks.ablation_grids import GRIDS, Grid

CODE = ("backdrop", "stages", "dvc.yaml")  # what an experiment's result depends on beside its parameters
CONF = Path("conf")
LOGS = Path("runs/ablations")
TABLE = Path("docs/ablations.md")
LOCK_ATTEMPTS = 6
WEIGHTS = "BACKDROP_ENCODER_WEIGHTS"
SEGMENTS_NOTHING = {"only_bg"}  # S learns nothing there: J and F would say nothing
OF_BOXES = {"box mAP50", "center hit", "boxes above .5", "center"}


class Task(NamedTuple):
    """One experiment: a row with a seed; `digest` of its parameters, `name` with that of its code as well."""

    row: str
    seed: int
    digest: str
    name: str
    settings: tuple[str, ...]


# ------------------------------------------------------------------------------------------------------ the rows


def pairs(grid: Grid, rows: Sequence[str] | None = None, seeds: Sequence[int] | None = None) -> list[tuple[str, int]]:
    """(row, seed) of a grid in the order in which they run, none twice.

    Raises:
        BackdropError: a name in `rows` is no row.
    """
    wanted: dict[tuple[str, int], None] = {}
    for group in grid.groups:
        for row in (group.base, *group.rows):
            wanted |= {(row, seed): None for seed in (seeds or group.seeds)}
    known = {row for row, _ in wanted}
    if unknown := set(rows or ()) - known:
        raise BackdropError(f"no such row: {', '.join(sorted(unknown))}; the rows are {', '.join(sorted(known))}")
    return [(row, seed) for row, seed in wanted if rows is None or row in rows]


def composed(overrides: Sequence[str]) -> dict[str, Any]:
    """The parameters of a row, as `dvc exp run` composes them."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "params.yaml"
        compose_params(list(overrides), path, CONF)
        return yaml.safe_load(path.read_text(encoding="utf-8"))


def digest(params: Mapping[str, Any]) -> str:
    """Short hash of what can change a result; the folder of encoder weights may lie anywhere."""
    counting = {key: value for key, value in params.items() if key != "compute"}
    # Keys that came later do not count where they change nothing: what was measured before stays.
    counting["background"] = {
        key: value for key, value in params["background"].items() if (key, value) != ("masks", None)
    }
    encoder = dict(counting["encoder"])
    plain = {} if encoder.pop("backbone", "resnet18") == "resnet18" else {"backbone": params["encoder"]["backbone"]}
    counting["encoder"] = plain | {key: value if value == "none" else "file" for key, value in encoder.items()}
    return hashlib.sha256(json.dumps(counting, sort_keys=True).encode()).hexdigest()[:10]


def code_digest() -> str:
    """Short hash of the code as it lies in the workspace, committed or not."""
    listed = git("ls-files", "--", *CODE).splitlines()
    files = {name: Path(name).read_bytes() for name in listed if Path(name).is_file()}
    return hashlib.sha256(b"\0".join(key.encode() + value for key, value in sorted(files.items()))).hexdigest()[:6]


def tasks(grid: Grid, wanted: Iterable[tuple[str, int]]) -> list[Task]:
    code, made = code_digest(), []
    for row, seed in wanted:
        settings = tuple(grid.overrides(row, seed))
        params = digest(composed(settings))
        name = f"ablation-{row.replace('_', '-')}-s{seed}-{params[:6]}-{code}"
        made.append(Task(row, seed, params, name, settings))
    return made


# --------------------------------------------------------------------------------------------------- experiments


def git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], capture_output=True, text=True)
    if done.returncode:
        raise BackdropError(f"git {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


def experiments() -> dict[str, str]:
    """name -> git reference of DVC's experiments on the current commit."""
    head = git("rev-parse", "HEAD").strip()
    listed = git("for-each-ref", "--format=%(refname)", f"refs/exps/{head[:2]}/{head[2:]}")
    return {ref.rsplit("/", 1)[1]: ref for ref in listed.split()}


def run(task: Task) -> bool:
    """Run one experiment in a temporary checkout; its output goes to a log. False: it failed."""
    LOGS.mkdir(parents=True, exist_ok=True)
    settings = [word for override in task.settings for word in ("-S", override)]
    # A relative entry means the checkout's own library to a stage that runs there.
    path = os.pathsep.join(filter(None, [".", os.environ.get("PYTHONPATH")]))
    for attempt in range(LOCK_ATTEMPTS):
        with log(task).open("w") as stream:
            done = subprocess.run(
                ["dvc", "exp", "run", "--temp", "--name", task.name, *settings],
                env={**os.environ, "PYTHONPATH": path},
                stdout=stream,
                stderr=subprocess.STDOUT,
            )
        if done.returncode == 0 or "Unable to acquire lock" not in log(task).read_text(errors="replace"):
            break
        time.sleep(5 + 5 * attempt)  # another experiment was just then being set up or put away
    return done.returncode == 0 and task.name in experiments()


def log(task: Task) -> Path:
    return LOGS / f"{task.name}.log"


def run_all(wanted: Sequence[Task], jobs: int) -> list[Task]:
    """Run those of `wanted` that no experiment holds, `jobs` at a time; the ones that failed."""
    missing = [task for task in wanted if task.name not in experiments()]
    print(f"{len(wanted)} experiments, {len(wanted) - len(missing)} of them there already")
    if jobs > 1:
        os.environ["OMP_NUM_THREADS"] = "1"
    failed = []
    with ThreadPoolExecutor(jobs) as pool, tqdm(total=len(missing), unit="experiment", desc="ablations") as bar:
        # The first fills the cache with the stages that all share, before others run beside it.
        for batch in (missing[:1], missing[1:]):
            for task, done in zip(batch, pool.map(run, batch), strict=True):
                bar.update()
                if not done:
                    failed.append(task)
                    tqdm.write(f"failed: {task.row}, seed {task.seed}: {log(task)}")
    return failed


def collect(grid: Grid, wanted: Iterable[Task], known: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Results by row and seed: those of experiments that are there, else those known, if parameters are the same."""
    refs, revision = experiments(), git("rev-parse", "HEAD").strip()
    before = {(entry["row"], entry["seed"], entry["params"]): dict(entry) for entry in known}
    found = []
    for task in wanted:
        if task.name in refs:
            scores = json.loads(git("show", f"{refs[task.name]}:metrics/scores.json"))
            figures = {column: scores[part][key] for column, (part, key) in grid.columns.items()}
            found.append(
                {"row": task.row, "seed": task.seed, "params": task.digest, "revision": revision, "figures": figures}
            )
        elif (task.row, task.seed, task.digest) in before:
            found.append(before[task.row, task.seed, task.digest])
    return found


# ------------------------------------------------------------------------------------------------------ the table


def cell(values: Sequence[float | None]) -> str:
    """Mean, and the range over seeds where there are several."""
    numbers = [value for value in values if value is not None]
    if not numbers:
        return "–"
    mean = f"{sum(numbers) / len(numbers):.2f}"
    low, high = f"{min(numbers):.2f}", f"{max(numbers):.2f}"
    return mean if len(numbers) == 1 else f"{mean} ({low}–{high})"


def line(grid: Grid, row: str, entries: Sequence[Mapping[str, Any]]) -> str:
    """A row of the table from its results, one a seed."""
    name = "reference" if row == grid.reference else row
    seeds = ", ".join(str(entry["seed"]) for entry in entries)
    hidden = set(grid.columns) - OF_BOXES if row in SEGMENTS_NOTHING else set()
    cells = [cell([None if c in hidden else entry["figures"][c] for entry in entries]) for c in grid.columns]
    return " | ".join(["", name, seeds or "not run", *cells, ""]).strip()


def table(grid: Grid, results: Sequence[Mapping[str, Any]], notes: Mapping[str, str] | None = None) -> str:
    """The whole table in Markdown, group by group, each beginning with the row it is compared with.

    Args:
        results: entries of row, seed and figures (by column). notes: row -> why it has no result.
    """
    lines = []
    for group in grid.groups:
        head = ["row", "seeds", *grid.columns]
        lines += [f"**{group.title}**", "", f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
        for row in (group.base, *group.rows):
            entries = sorted((entry for entry in results if entry["row"] == row), key=lambda entry: entry["seed"])
            # Like is compared with like.
            lines.append(line(grid, row, [entry for entry in entries if entry["seed"] in group.seeds] or entries))
        lines.append("")
        lines += [f"`{row}`: {notes[row]}\n" for row in group.rows if notes and row in notes]
    return "\n".join(lines).rstrip() + "\n"


def markers(grid: Grid) -> tuple[str, str]:
    return f"<!-- ablations {grid.name}: begin -->", f"<!-- ablations {grid.name}: end -->"


def place(text: str, made: str, begin: str, end: str) -> str:
    """`text` with what stands between the two markers replaced; what people wrote around them stays.

    Raises:
        BackdropError: only one marker is there, or they stand in the wrong order.
    """
    if begin not in text and end not in text:
        return f"{text.rstrip()}\n\n{begin}\n{made}{end}\n".lstrip()
    first, last = text.find(begin), text.find(end)
    if not 0 <= first < last:
        raise BackdropError(f"{TABLE} must hold {begin} and, after it, {end}")
    return f"{text[:first]}{begin}\n{made}{text[last:]}"


def write(grid: Grid, found: Sequence[Mapping[str, Any]], notes: Mapping[str, str]) -> None:
    grid.results.write_text(json.dumps(list(found), indent=2) + "\n", encoding="utf-8")
    TABLE.parent.mkdir(exist_ok=True)
    before = TABLE.read_text(encoding="utf-8") if TABLE.exists() else "# Ablations\n"
    TABLE.write_text(place(before, table(grid, found, notes), *markers(grid)), encoding="utf-8")
    print(f"wrote {TABLE} and {grid.results}: {len(found)} results")


# --------------------------------------------------------------------------------------------------- command line


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--grid", choices=list(GRIDS), help="one grid; both where it is left out")
    parser.add_argument("--rows", type=lambda text: text.split(","), help="only these rows, separated by commas")
    parser.add_argument("--seeds", type=lambda text: [int(seed) for seed in text.split(",")], help="for every row")
    parser.add_argument(
        "--encoder-weights",
        type=Path,
        default=os.environ.get(WEIGHTS),
        help=f"folder of resnet18.safetensors or .pth for the row encoder_file (default: {WEIGHTS})",
    )
    parser.add_argument("--jobs", type=int, default=1, help="experiments at a time, a thread each where more than 1")
    parser.add_argument("--anew", action="store_true", help="drop results that are of other parameters than today's")
    parser.add_argument("--table-only", action="store_true", help="run nothing, write the table anew")
    args = parser.parse_args()
    if args.rows is not None and args.grid is None:
        parser.error("--rows needs --grid: papers or ours")
    return args


def keep_known(grid: Grid, known: Sequence[Mapping[str, Any]], again: Sequence[tuple[str, int]]) -> None:
    """Refuse to write a table that would lose results which parameters of today do not give.

    Args:
        again: (row, seed) that are run now.

    Raises:
        BackdropError: names how many results would be lost, and what to do.
    """
    rows = {row for row, _ in pairs(grid)}
    there = dict.fromkeys((one["row"], one["seed"]) for one in known if one["row"] in rows)
    today = {(task.row, task.seed): task.digest for task in tasks(grid, there)}
    lost = [one for one in known if today.get((one["row"], one["seed"])) != one["params"]]
    lost = [one for one in lost if (one["row"], one["seed"]) not in again]
    if lost:
        raise BackdropError(
            f"{grid.results}: {len(lost)} results are of other parameters than today's and would be lost; run the "
            f"whole grid {grid.name}, or add --anew to drop them"
        )


def make(grid: Grid, args: argparse.Namespace, notes: Mapping[str, str]) -> list[Task]:
    """Run what is wanted of a grid and write its table; the experiments that failed."""
    chosen = [pair for pair in pairs(grid, args.rows, args.seeds) if args.table_only or pair[0] not in notes]
    known = json.loads(grid.results.read_text(encoding="utf-8")) if grid.results.exists() else []
    if not args.anew:
        keep_known(grid, known, [] if args.table_only else chosen)
    failed = [] if args.table_only else run_all(tasks(grid, chosen), args.jobs)
    every = dict.fromkeys([*pairs(grid), *chosen])
    rows = {row for row, _ in every}
    every |= dict.fromkeys((entry["row"], entry["seed"]) for entry in known if entry["row"] in rows)
    found = collect(grid, tasks(grid, every), known)
    write(grid, found, {row: note for row, note in notes.items() if row not in {entry["row"] for entry in found}})
    return failed


def main() -> None:
    args = arguments()
    notes = {}
    if args.encoder_weights is None:
        notes["encoder_file"] = f"needs a folder of weights: `--encoder-weights FOLDER`, or `{WEIGHTS}`."
    else:
        os.environ[WEIGHTS] = str(Path(args.encoder_weights).resolve())  # checkouts lie elsewhere
    failed = []
    for grid in GRIDS.values():
        if args.grid in (None, grid.name):
            failed += make(grid, args, notes)
    for task in failed:
        print(f"\n{task.row}, seed {task.seed} failed; the end of {log(task)}:", file=sys.stderr)
        print("\n".join(log(task).read_text(errors="replace").splitlines()[-15:]), file=sys.stderr)
    if failed:
        raise BackdropError(f"{len(failed)} experiments failed; the same command runs them again")


if __name__ == "__main__":
    try:
        main()
    except BackdropError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("stopped; what is finished is kept, and the same command goes on")
