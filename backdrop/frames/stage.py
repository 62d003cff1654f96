"""Stage frames: all sequences of a data set into archives, and their index."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm

from backdrop.errors import BackdropError, StrictError, WriteError
from backdrop.frames.budget.videos import Budget
from backdrop.frames.extract import FrameFormat, extract_sequence
from backdrop.frames.layouts import list_sequences
from backdrop.frames.layouts.listing import Sequence, skipped_row, warn
from backdrop.frames.parameters import DataParams
from backdrop.frames.regions import with_regions
from backdrop.frames.splits import assign_splits, matching, require_both
from backdrop.io.files import atomic_path, parts_folder, show
from backdrop.io.index import STREAMED, index_table, read_index
from backdrop.run.processes import each, threads_each


def extract_all(data: DataParams, out_dir: Path | str, workers: int = 1) -> pd.DataFrame:
    """Extract every sequence under `data.root` into `out_dir`, and write `index.csv` there.

    Sequences run in parallel processes. Nothing in `out_dir` changes before all are done; archives of sequences that
    no longer exist are removed.

    With `data.budget` and more frames than that, archives hold bursts of consecutive frames, drawn from the sequences
    that are trained on (`budget`), and `videos.csv` lists the videos, which later stages read where they lie.

    Videos are not cut into chunks as in later stages: decoding begins at keyframes only, and which number the frame
    after a leap has is not known in a file that is damaged, edited or of a variable rate. Where there are fewer
    sequences than processes, each decodes, resizes and encodes in threads instead; a long video among many has one.

    Args:
        data: the parameters' section `data`.
        out_dir: folder of the archives.
        workers: processes.

    Returns:
        The index: one row per sequence, skipped ones with their reason; or one row per burst.

    Raises:
        StrictError: `data.strict`, and a sequence is skipped or damaged; names all of them.
        BackdropError: no sequence is usable, `data.roi` is wrong (see `with_regions`), or held_out is left without
            train or test sequences.
    """
    out_dir = Path(out_dir)
    sequences = list_sequences(data.layout, data.root)
    if data.roi is not None:
        sequences = with_regions(sequences, Path(data.roi_path))
    if data.only:
        sequences = matching(sequences, "data.only", data.only)
    sequences = assign_splits(sequences, data.protocol, data.val, data.test)
    threads = threads_each(len(sequences), workers)  # one long video uses the cores by itself
    with parts_folder(out_dir) as folder:
        form = FrameFormat(data.size, data.every, data.limit, data.quality)
        drawn = None
        if data.budget:
            drawn = _drawn(Budget(data.budget, folder, form, workers, threads), sequences, data)
        if drawn is None:
            index, videos = index_table(_extracted([(s, folder, form, threads) for s in sequences], workers)), None
            _judge(index, data)
        else:
            index, videos = drawn
        _publish(folder, out_dir, index, videos)
    return index


def _drawn(budget: Budget, sequences: list[Sequence], data: DataParams) -> tuple[pd.DataFrame, pd.DataFrame] | None:
    """The index of the bursts and the table of the videos; None where all frames are within the budget."""
    rows, offers = budget.look_through(sequences)
    if sum(row["frames"] for row in rows) <= budget.frames:
        for archive in budget.folder.glob("*.zip"):
            archive.unlink()
        return None
    videos = index_table([_told(row) for row in rows])
    _judge(videos, data)
    return index_table(budget.draw(sequences, rows, offers)), videos


def _extract_or_skip(sequence: Sequence, folder: Path, form: FrameFormat, threads: int) -> dict[str, Any]:
    """`extract_sequence`, with a fault as a row of the index."""
    try:
        return extract_sequence(sequence, folder, form, threads)
    except WriteError:
        raise  # the fault is the disk's, not the sequence's
    except BackdropError as fault:
        return skipped_row(sequence, fault)


def _extracted(arguments: list[tuple], workers: int) -> list[dict[str, Any]]:
    """The rows of the index in order, with a progress bar."""
    rows = tqdm(each(_extract_or_skip, arguments, workers), total=len(arguments), desc="frames", unit="sequence")
    return [_told(row) for row in rows]


def _told(row: dict[str, Any]) -> dict[str, Any]:
    """The same row, with a warning where it states a reason."""
    if row["reason"]:
        warn(f"{row['sequence']} ({row['status']}): {row['reason']}")
    return row


def _judge(index: pd.DataFrame, data: DataParams) -> None:
    """Raise if the extracted sequences are not enough to go on with."""
    bad = index[index.status != "ok"]
    listed = "; ".join(f"{row.sequence} ({row.status}): {row.reason}" for row in bad.itertuples())
    if data.strict and len(bad):
        raise StrictError(f"data.strict: {len(bad)} of {len(index)} sequences are not whole: {listed}")
    usable = index[index.status != "skipped"]
    if usable.empty:
        raise BackdropError(f"no sequence under {show(data.root)} can be used: {listed}")
    if data.protocol == "held_out":
        require_both(usable.split)


def _publish(staging: Path, out_dir: Path, index: pd.DataFrame, videos: pd.DataFrame | None) -> None:
    """Move the archives to their place; the tables, which make them count, go last."""
    tables = {"index.csv": index, STREAMED: videos}
    stale: set[str] = set()
    for table in (index, videos):
        stale |= set() if table is None else set(table.sequence)
    for name in tables:
        with suppress(BackdropError):  # no earlier table: nothing of ours to remove
            stale |= set(read_index(out_dir, table_name=name).sequence)
        (out_dir / name).unlink(missing_ok=True)
    archives = sorted(staging.glob("*.zip"))
    for name in stale - {archive.stem for archive in archives}:
        (out_dir / f"{name}.zip").unlink(missing_ok=True)
    for archive in archives:
        os.replace(archive, out_dir / archive.name)
    for name, table in reversed(tables.items()):
        if table is not None:
            with atomic_path(out_dir / name) as temporary:
                temporary.write_bytes(table.to_csv(index=False, lineterminator="\n").encode())
