"""Which sequences are for training, validation and test."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path

from backdrop.errors import BackdropError
from backdrop.frames.entries import nfc
from backdrop.frames.layouts.listing import Sequence


def assign_splits(
    sequences: list[Sequence], protocol: str, val: Iterable[str] = (), test: Iterable[str] = ()
) -> list[Sequence]:
    """The sequences with their split.

    Args:
        protocol: self: every sequence is "all", trained on and scored on itself. held_out: by the globs if
            any is given (the rest is train), else by the layout's own splits.
        val, test: globs over sequence names or source file names.

    Raises:
        BackdropError: a glob matches nothing, a sequence is both val and test, no splits are known,
            or nothing is left to train on or to test on.
    """
    if protocol == "self":
        return [replace(s, split="all") for s in sequences]
    globs = {"val": list(val), "test": list(test)}
    if any(globs.values()):
        sequences = _split_by_globs(sequences, globs)
    unknown = [s.name for s in sequences if s.split is None]
    if unknown:
        raise BackdropError(
            f"protocol held_out: the split of {unknown[0]} is unknown; name sequences in data.val and data.test "
            "(globs, the rest is for training), or set data.protocol to self"
        )
    require_both(s.split for s in sequences)
    return sequences


def _matches(sequence: Sequence, glob: str) -> bool:
    names = {sequence.name, Path(sequence.source).name, Path(sequence.source).stem}
    return any(fnmatchcase(nfc(name), nfc(glob)) for name in names)


def matching(sequences: list[Sequence], key: str, globs: Iterable[str]) -> list[Sequence]:
    """The sequences that any of the globs of the parameter `key` matches; a glob that matches none is an error."""
    globs = list(globs)
    for glob in globs:
        if not any(_matches(s, glob) for s in sequences):
            names = ", ".join(s.name for s in sequences[:20])
            raise BackdropError(f"{key}: no sequence matches {glob!r}; there are {names}")
    return [s for s in sequences if any(_matches(s, glob) for glob in globs)]


def _split_by_globs(sequences: list[Sequence], globs: dict[str, list[str]]) -> list[Sequence]:
    named = {split: matching(sequences, f"data.{split}", patterns) for split, patterns in globs.items()}
    chosen = []
    for sequence in sequences:
        hits = [split for split, matched in named.items() if sequence in matched]
        if len(hits) > 1:
            raise BackdropError(f"data.val and data.test both match {sequence.name}; a sequence has one split")
        chosen.append(replace(sequence, split=hits[0] if hits else "train"))
    return chosen


def require_both(splits: Iterable[str | None]) -> None:
    """Raise a BackdropError unless both train and test are among the splits."""
    present = set(splits)
    for needed in ("train", "test"):
        if needed not in present:
            raise BackdropError(
                f"protocol held_out: no usable {needed} sequence is left; change data.val and data.test, "
                "or set data.protocol to self"
            )
