"""What a project's model was trained on: whole sequences, or bursts of videos where `data.budget` drew them."""

from __future__ import annotations

from pathlib import Path

from backdrop.io.index import is_streamed, read_index, read_videos


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
