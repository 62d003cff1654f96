"""`data/frames/index.csv`: one row per stored sequence. Written by the stage frames, read by all others.

Where `data.budget` draws the frames to train on, a stored sequence is a burst of consecutive frames, and `videos.csv`
has a row per video: what is segmented and scored. The archive of such a video holds no frames, see `video.streamed`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from backdrop.errors import BackdropError
from backdrop.io.files import is_file_name, show

INDEX_COLUMNS = (
    *("sequence", "split", "source", "status", "reason", "frames", "declared_frames", "width", "height"),
    *("source_width", "source_height", "fps", "masks"),
)

STREAMED = "videos.csv"
"""The table beside `index.csv`, with the same columns, where there are bursts."""

TEXT_COLUMNS = ("sequence", "split", "source", "status", "reason")


def index_table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """The rows as a table with the index's columns and their types; numbers may be missing."""
    table = pd.DataFrame(rows, columns=list(INDEX_COLUMNS))
    for column in INDEX_COLUMNS:
        kind = "str" if column in TEXT_COLUMNS else "Float64" if column == "fps" else "Int64"
        table[column] = table[column].astype(kind)
    return table


def read_index(frames_dir: Path | str, usable: bool = False, table_name: str = "index.csv") -> pd.DataFrame:
    """`index.csv` of a folder of archives, one row per sequence; with `usable` without the skipped ones.

    Raises:
        BackdropError: missing or not an index.
    """
    path = Path(frames_dir) / table_name
    try:
        numbers = [c for c in INDEX_COLUMNS if c not in TEXT_COLUMNS]
        # a sequence may be named 007 or NA: text stays text
        table = pd.read_csv(
            path,
            dtype=dict.fromkeys(TEXT_COLUMNS, "str"),
            keep_default_na=False,
            na_values=dict.fromkeys(numbers, [""]),
        )
        table = index_table(table[list(INDEX_COLUMNS)].to_dict("records"))
        if not all(is_file_name(name) for name in table.sequence):
            raise ValueError("a sequence's name leads elsewhere")
        if table.sequence.duplicated().any():
            raise ValueError("a sequence is listed twice, and could be trained on and scored")
    except FileNotFoundError as fault:
        raise BackdropError(f"{show(path)} does not exist; run the stage frames first") from fault
    except (KeyError, ValueError, TypeError, pd.errors.ParserError) as fault:
        raise BackdropError(f"{show(path)} is not an index of frames; run the stage frames again") from fault
    return table[table.status != "skipped"].reset_index(drop=True) if usable else table


def is_streamed(frames_dir: Path | str) -> bool:
    """Whether frames were drawn on a budget, so that videos are segmented from their sources."""
    return (Path(frames_dir) / STREAMED).is_file()


def read_videos(frames_dir: Path | str, usable: bool = False) -> pd.DataFrame:
    """What is segmented and scored, as `read_index`: the videos where there are bursts, else the stored sequences."""
    return read_index(frames_dir, usable, STREAMED if is_streamed(frames_dir) else "index.csv")


def usable_sequences(frames_dir: str | Path) -> list[str]:
    """Names of the sequences whose frames are stored, in the order of the index.

    Raises:
        BackdropError: the index is missing or no sequence of it is usable.
    """
    index = read_index(frames_dir)
    names = [str(name) for name in index.loc[index["status"] != "skipped", "sequence"]]
    if not names:
        raise BackdropError(f"{frames_dir} holds no usable sequence: see the reasons in its index.csv")
    return names


def trained_sequences(frames: Path) -> dict[str, str]:
    """What is trained on -> the video that is segmented; the same name unless it is a burst of the video.

    Args:
        frames: data/frames.

    Raises:
        BackdropError: its index is missing or damaged.
    """
    index = read_index(frames, usable=True)
    names = index.loc[index["split"].isin(["train", "all"]), ["sequence", "source"]]
    videos = {}
    if is_streamed(frames):
        videos = {row.source: str(row.sequence) for row in read_videos(frames, usable=True).itertuples()}
    return {str(row.sequence): videos.get(row.source, str(row.sequence)) for row in names.itertuples()}


def trained_frames(frames: Path) -> int:
    """How many frames the model was trained on.

    Raises:
        BackdropError: as above.
    """
    index = read_index(frames, usable=True)
    return int(index.loc[index["split"].isin(["train", "all"]), "frames"].sum())
