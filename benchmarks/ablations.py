"""The ablation grid: each row of conf/ablation/ as a DVC experiment, and docs/ablations.md written from the results.

`make ablations`, or `python -m benchmarks.ablations`; `--rows a,b`, `--seeds 0,1`, `--table-only`,
`--encoder-weights FOLDER`, `--jobs 2` (experiments at a time, a thread each).

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

CODE = ("backdrop", "stages", "dvc.yaml")  # what an experiment's result depends on beside its parameters
CONF = Path("conf")
LOGS = Path("runs/ablations")
RESULTS = Path("benchmarks/ablations.json")
TABLE = Path("docs/ablations.md")
BEGIN, END = "<!-- ablations: begin -->", "<!-- ablations: end -->"
REFERENCE = "none"
LOCK_ATTEMPTS = 6
SEEDS = (0, 1, 2)
WEIGHTS = "BACKDROP_ENCODER_WEIGHTS"
SEGMENTS_NOTHING = {"only_bg"}  # S learns nothing there: J and F would say nothing


class Group(NamedTuple):
    """Rows that are compared with each other and with `base`; `seeds` of them are run."""

    title: str
    rows: tuple[str, ...]
    base: str = REFERENCE
    seeds: tuple[int, ...] = (0,)


GROUPS = (
    Group("Reference", (), seeds=SEEDS),
    Group(
        "Sampling (reference: importance, four cells, leave-one-out baseline)",
        ("sampling_importance_1", "sampling_uniform", "sampling_gumbel"),
        seeds=(0, 1),
    ),
    Group("Sampling: sum over all cells (batch of 2)", ("sampling_exact",)),
    Group("Who learns from what, with boxes that learn", ("entangled", "only_bg", "direct_box"), base="boxes_learn"),
    Group("Prior on the mask (reference: v)", ("mask_prior_none", "mask_prior_l1", "mask_prior_l2")),
    Group("Prior on p (reference: none)", ("p_prior_l1", "p_prior_l2")),
    Group("Encoder weights (reference: none)", ("encoder_file",)),
    Group("Flow", ("flow_off",)),
    Group(
        "Ours (reference: median background with a pixel of tolerance, in the whole image; offsets learn, sizes do "
        "not; motion outside of the mask costs; colors held to the crop's; augmentation)",
        (
            "background_inpaint",
            "tolerance_off",
            "whole_background_off",
            "offsets_fixed",
            "flow_fg_off",
            "autoencoder_off",
            "augment_off",
        ),
    ),
    Group("CRF", ("crf_off",)),
    Group("Self-training rounds (reference: 0)", ("student_1", "student_2")),
    Group(
        "Lambda x box range, boxes learn (boxes_learn: 0.005, 20 to 80 %)",
        tuple(f"lambda_{value}_box_{sides}" for value in ("001", "01") for sides in ("10_50", "20_80", "40_90")),
        base="boxes_learn",
    ),
)

# column -> (the result in scores.json, its key); at 0 rounds `method` is D and S alone
COLUMNS = {
    "box mAP50": ("method", "mAP50"),
    "center hit": ("method", "centre_hit"),
    "J before CRF": ("method_raw", "J_mean"),
    "J": ("method", "J_mean"),
    "F": ("method", "F_mean"),
    "threshold": ("method", "threshold"),
}
OF_MASKS = {"J before CRF", "J", "F", "threshold"}


class Task(NamedTuple):
    """One experiment: a row with a seed; `digest` of its parameters, `name` with that of its code as well."""

    row: str
    seed: int
    digest: str
    name: str


# ------------------------------------------------------------------------------------------------------ the grid


def grid(rows: Sequence[str] | None = None, seeds: Sequence[int] | None = None) -> list[tuple[str, int]]:
    """(row, seed) in the order in which they run, none twice.

    Raises:
        BackdropError: a name in `rows` is no row.
    """
    wanted: dict[tuple[str, int], None] = {}
    for group in GROUPS:
        for row in (group.base, *group.rows):
            wanted |= {(row, seed): None for seed in (seeds or group.seeds)}
    known = {row for row, _ in wanted}
    if unknown := set(rows or ()) - known:
        raise BackdropError(f"no such row: {', '.join(sorted(unknown))}; the rows are {', '.join(sorted(known))}")
    return [(row, seed) for row, seed in wanted if rows is None or row in rows]


def overrides(row: str, seed: int) -> list[str]:
    return ["scale=ablation", f"ablation={row}", f"seed={seed}"]


def composed(row: str, seed: int) -> dict[str, Any]:
    """The parameters of a row, as `dvc exp run` composes them."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "params.yaml"
        compose_params(overrides(row, seed), path, CONF)
        return yaml.safe_load(path.read_text(encoding="utf-8"))


def digest(params: Mapping[str, Any]) -> str:
    """Short hash of what can change a result; the folder of encoder weights may lie anywhere."""
    counting = {key: value for key, value in params.items() if key != "compute"}
    encoder = dict(counting["encoder"])
    plain = {} if encoder.pop("backbone", "resnet18") == "resnet18" else {"backbone": params["encoder"]["backbone"]}
    counting["encoder"] = plain | {key: value if value == "none" else "file" for key, value in encoder.items()}
    return hashlib.sha256(json.dumps(counting, sort_keys=True).encode()).hexdigest()[:10]


def code_digest() -> str:
    """Short hash of the code as it lies in the workspace, committed or not."""
    listed = git("ls-files", "--", *CODE).splitlines()
    files = {name: Path(name).read_bytes() for name in listed if Path(name).is_file()}
    return hashlib.sha256(b"\0".join(key.encode() + value for key, value in sorted(files.items()))).hexdigest()[:6]


def tasks(pairs: Iterable[tuple[str, int]]) -> list[Task]:
    code, made = code_digest(), []
    for row, seed in pairs:
        params = digest(composed(row, seed))
        made.append(Task(row, seed, params, f"ablation-{row.replace('_', '-')}-s{seed}-{params[:6]}-{code}"))
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
    settings = [word for override in overrides(task.row, task.seed) for word in ("-S", override)]
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


def collect(wanted: Iterable[Task], known: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Results by row and seed: those of experiments that are there, else those known, if parameters are the same."""
    refs, revision = experiments(), git("rev-parse", "HEAD").strip()
    before = {(entry["row"], entry["seed"], entry["params"]): dict(entry) for entry in known}
    found = []
    for task in wanted:
        if task.name in refs:
            scores = json.loads(git("show", f"{refs[task.name]}:metrics/scores.json"))
            figures = {column: scores[part][key] for column, (part, key) in COLUMNS.items()}
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


def line(row: str, entries: Sequence[Mapping[str, Any]]) -> str:
    """A row of the table from its results, one a seed."""
    name = "reference" if row == REFERENCE else row
    seeds = ", ".join(str(entry["seed"]) for entry in entries)
    hidden = OF_MASKS if row in SEGMENTS_NOTHING else set()
    cells = [cell([None if c in hidden else entry["figures"][c] for entry in entries]) for c in COLUMNS]
    return " | ".join(["", name, seeds or "not run", *cells, ""]).strip()


def table(results: Sequence[Mapping[str, Any]], notes: Mapping[str, str] | None = None) -> str:
    """The whole table in Markdown, group by group, each beginning with the row it is compared with.

    Args:
        results: entries of row, seed and figures (by column). notes: row -> why it has no result.
    """
    lines = []
    for group in GROUPS:
        lines += [f"**{group.title}**", "", " | ".join(["| row", "seeds", *COLUMNS]) + " |", "|---" * 8 + "|"]
        for row in (group.base, *group.rows):
            entries = sorted((entry for entry in results if entry["row"] == row), key=lambda entry: entry["seed"])
            if len(group.seeds) < len(SEEDS):  # like is compared with like
                entries = [entry for entry in entries if entry["seed"] in group.seeds] or entries
            lines.append(line(row, entries))
        lines.append("")
        lines += [f"`{row}`: {notes[row]}\n" for row in group.rows if notes and row in notes]
    return "\n".join(lines).rstrip() + "\n"


def place(text: str, made: str) -> str:
    """`text` with what stands between the two markers replaced; what people wrote around them stays.

    Raises:
        BackdropError: only one marker is there, or they stand in the wrong order.
    """
    if BEGIN not in text and END not in text:
        return f"{text.rstrip()}\n\n{BEGIN}\n{made}{END}\n".lstrip()
    begin, end = text.find(BEGIN), text.find(END)
    if not 0 <= begin < end:
        raise BackdropError(f"{TABLE} must hold {BEGIN} and, after it, {END}")
    return f"{text[:begin]}{BEGIN}\n{made}{text[end:]}"


def write(found: Sequence[Mapping[str, Any]], notes: Mapping[str, str]) -> None:
    RESULTS.write_text(json.dumps(list(found), indent=2) + "\n", encoding="utf-8")
    TABLE.parent.mkdir(exist_ok=True)
    before = TABLE.read_text(encoding="utf-8") if TABLE.exists() else "# Ablations\n"
    TABLE.write_text(place(before, table(found, notes)), encoding="utf-8")
    print(f"wrote {TABLE} and {RESULTS}: {len(found)} results")


# --------------------------------------------------------------------------------------------------- command line


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=lambda text: text.split(","), help="only these rows, separated by commas")
    parser.add_argument("--seeds", type=lambda text: [int(seed) for seed in text.split(",")], help="for every row")
    parser.add_argument(
        "--encoder-weights",
        type=Path,
        default=os.environ.get(WEIGHTS),
        help=f"folder of resnet18.safetensors or .pth for the row encoder_file (default: {WEIGHTS})",
    )
    parser.add_argument("--jobs", type=int, default=1, help="experiments at a time, a thread each where more than 1")
    parser.add_argument("--table-only", action="store_true", help="run nothing, write the table anew")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    notes = {}
    if args.encoder_weights is None:
        notes["encoder_file"] = f"needs a folder of weights: `--encoder-weights FOLDER`, or `{WEIGHTS}`."
    else:
        os.environ[WEIGHTS] = str(Path(args.encoder_weights).resolve())  # checkouts lie elsewhere
    chosen = [pair for pair in grid(args.rows, args.seeds) if args.table_only or pair[0] not in notes]
    every = dict.fromkeys([*grid(), *chosen])
    if args.seeds is None and args.rows is None and "encoder_file" in notes:
        print(f"encoder_file is left out: {notes['encoder_file']}")
    failed = [] if args.table_only else run_all(tasks(chosen), args.jobs)
    known = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else []
    rows = {row for row, _ in grid()}
    every |= dict.fromkeys((entry["row"], entry["seed"]) for entry in known if entry["row"] in rows)
    found = collect(tasks(every), known)
    write(found, {row: note for row, note in notes.items() if row not in {entry["row"] for entry in found}})
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
