"""Stage frames: all sequences of a data set into archives, and their index."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm

from backdrop.errors import BackdropError, StrictError, WriteError
from backdrop.frames.extract import FrameFormat, extract_sequence
from backdrop.frames.layouts import list_sequences
from backdrop.frames.layouts.listing import Sequence, warn
from backdrop.frames.parameters import DataParams
from backdrop.frames.splits import assign_splits, matching, require_both
from backdrop.io.files import atomic_path, parts_folder, show
from backdrop.io.index import INDEX_COLUMNS, index_table, read_index
from backdrop.run.processes import each, threads_each


def extract_all(data: DataParams, out_dir: Path | str, workers: int = 1) -> pd.DataFrame:
    """Extract every sequence under `data.root` into `out_dir`, and write `index.csv` there.

    Sequences run in parallel processes. Nothing in `out_dir` changes before all are done; archives of sequences that
    no longer exist are removed.

    Videos are not cut into chunks as in later stages: decoding begins at keyframes only, and which number the frame
    after a leap has is not known in a file that is damaged, edited or of a variable rate. Where there are fewer
    sequences than processes, each decodes, resizes and encodes in threads instead; a long video among many has one.

    Args:
        data: the parameters' section `data`.
        out_dir: folder of the archives.
        workers: processes.

    Returns:
        The index: one row per sequence, skipped ones with their reason.

    Raises:
        StrictError: `data.strict`, and a sequence is skipped or damaged; names all of them.
        BackdropError: no sequence is usable, or held_out is left without train or test sequences.
    """
    out_dir = Path(out_dir)
    sequences = list_sequences(data.layout, data.root)
    if data.only:
        sequences = matching(sequences, "data.only", data.only)
    sequences = assign_splits(sequences, data.protocol, data.val, data.test)
    threads = threads_each(len(sequences), workers)  # one long video uses the cores by itself
    with parts_folder(out_dir) as folder:
        form = FrameFormat(data.size, data.every, data.limit, data.quality)
        index = index_table(_extracted([(s, folder, form, threads) for s in sequences], workers))
        _judge(index, data)
        _publish(folder, out_dir, index)
    return index


def _extract_or_skip(sequence: Sequence, folder: Path, form: FrameFormat, threads: int) -> dict[str, Any]:
    """`extract_sequence`, with a fault as a row of the index."""
    try:
        return extract_sequence(sequence, folder, form, threads)
    except WriteError:
        raise  # the fault is the disk's, not the sequence's
    except BackdropError as fault:
        row: dict[str, Any] = dict.fromkeys(INDEX_COLUMNS)
        row.update(sequence=sequence.name, split=sequence.split or "all", source=sequence.source)
        return {**row, "status": "skipped", "reason": " ".join(str(fault).split()), "frames": 0, "masks": 0}


def _extracted(arguments: list[tuple], workers: int) -> list[dict[str, Any]]:
    """The rows of the index in order, with a progress bar, and a warning for each row that states a reason."""
    rows = []
    for row in tqdm(each(_extract_or_skip, arguments, workers), total=len(arguments), desc="frames", unit="sequence"):
        rows.append(row)
        if row["reason"]:
            warn(f"{row['sequence']} ({row['status']}): {row['reason']}")
    return rows


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


def _publish(staging: Path, out_dir: Path, index: pd.DataFrame) -> None:
    """Move the archives to their place; the index, which makes them count, goes last."""
    text = index.to_csv(index=False, lineterminator="\n").encode()
    old = out_dir / "index.csv"
    stale = set(index.sequence[index.status == "skipped"])
    with suppress(BackdropError):  # no earlier index: nothing of ours to remove
        stale |= set(read_index(out_dir).sequence) - set(index.sequence)
    old.unlink(missing_ok=True)
    for name in stale:
        (out_dir / f"{name}.zip").unlink(missing_ok=True)
    for archive in sorted(staging.glob("*.zip")):
        os.replace(archive, out_dir / archive.name)
    with atomic_path(old) as temporary:
        temporary.write_bytes(text)
