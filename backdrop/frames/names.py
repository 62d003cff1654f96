"""Names of sequences, in letters that every file system and shell takes.

Accents are dropped; anything but ASCII letters, digits, "-", "_" and "." becomes "_"; "-", "_" and "." go from both
ends; 80 letters stay. If several sources under a root get the same name (upper and lower case count as the same),
each of them gets "-" and eight hex digits of the SHA-1 of its path below the root, so that no name depends on the
order of files. A name that loses all its letters becomes "sequence-" and those digits. The index table keeps the
source's own path.
"""

from __future__ import annotations

import re
import unicodedata


def safe_name(text: str) -> str:
    """`text` in at most 80 ASCII letters, digits, "-", "_" and ".", with none of "-_." at its ends; may be empty."""
    plain = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    return re.sub(r"[^A-Za-z0-9._-]", "_", plain).lstrip("-_.")[:80].rstrip("-_.")


def natural_key(text: str) -> list[str | int]:
    """A sort key that puts frame10 after frame9: runs of ASCII digits count as numbers, all else by code points.

    Names that differ only in leading zeros have equal keys. The package natsort agrees on ASCII names, but not on
    others: it always decomposes accents (so that "é" sorts before "z") and takes "²" for a number. Its order would
    renumber the sequences of data sets that have been extracted already.
    """
    return [int(part) if i % 2 else part for i, part in enumerate(re.split(r"([0-9]+)", text))]
