"""docs/licenses.md: the direct dependencies, their locked versions, and the licenses that their metadata states.

python -m benchmarks.licenses
"""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import metadata
from pathlib import Path
from typing import NamedTuple

PAGE = Path("docs/licenses.md")
PROJECT = Path("pyproject.toml")
LOCK = Path("requirements.lock")
OURS = "backdrop (pyproject.toml)"


class Locked(NamedTuple):
    """A package of the lock: its version, its hashes, and who needs it."""

    version: str
    hashes: tuple[str, ...]
    via: tuple[str, ...]


def plain(name: str) -> str:
    """A distribution's name as indices compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def declared(project: Path = PROJECT) -> dict[str, str]:
    """Name -> requirement of each direct dependency, those of the extras included."""
    table = tomllib.loads(project.read_text(encoding="utf-8"))["project"]
    every = [*table["dependencies"], *(word for extra in table["optional-dependencies"].values() for word in extra)]
    return {plain(re.split(r"[^\w.-]", word)[0]): word for word in every}


def locked(lock: Path = LOCK) -> dict[str, Locked]:
    """Name -> what the lock says of it."""
    found = {}
    for block in re.split(r"\n(?=[A-Za-z0-9])", lock.read_text(encoding="utf-8")):
        head = re.match(r"([\w.-]+)(?:\[[\w,-]+\])?==([^\s;]+)", block)
        if head:
            via = re.split(r"#\s+via", block)[-1]
            words = (line.strip(" #") for line in via.splitlines())
            needs = tuple(word for word in words if word and not word.startswith("--override"))
            found[plain(head[1])] = Locked(head[2], tuple(re.findall(r"sha256:[0-9a-f]{64}", block)), needs)
    return found


def license_of(name: str) -> str:
    """What the installed package's metadata states: its SPDX expression, else its classifiers, else its first line."""
    about = metadata(name)
    if "License-Expression" in about:
        return about["License-Expression"]
    classifiers = [c.rsplit(" :: ", 1)[1] for c in about.get_all("Classifier") or [] if c.startswith("License :: ")]
    own = about.get_all("License") or ["not stated"]
    return ", ".join(classifiers) or own[0].strip().splitlines()[0]


def page(project: Path = PROJECT, lock: Path = LOCK) -> str:
    """The page's Markdown."""
    versions = locked(lock)
    lines = [
        "# Licenses",
        "",
        "The direct dependencies of `pyproject.toml` with their versions in `requirements.lock`, and the license that",
        "each package's own metadata states. Made by `python -m benchmarks.licenses`;",
        "`tests/faults/test_supply.py` holds it current.",
        "",
        "The lock holds the hash of every file that may be installed. No audit tool is installed: without a network it",
        "could say no more than these versions, as the lists of known faults are kept elsewhere.",
        "",
        "| package | version | license |",
        "|---|---|---|",
    ]
    lines += [f"| {name} | {versions[name].version} | {license_of(name)} |" for name in sorted(declared(project))]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"wrote {PAGE}")
