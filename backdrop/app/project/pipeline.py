"""The pipeline's files as they come with the installed version, and as they stand in a project outside of the clone.

In the clone they lie at its root. A wheel holds a copy beside this file, which is made as the wheel is built (see
setup.py). A project gets a copy, too: `stages/` call the installed library, and `conf/` is that of the clone, except
that a file of the user's own stands in front of it. The embedded footage is left out: a project has its own.

In the clone a stage depends on the files of the library that it imports. A project has none of these. There the stage
`library` writes a hash of them for each stage into `library.yaml`, at each run, and the stages depend on these: an
update of Backdrop makes stale the stages whose code it changed, and no others.

`python -m backdrop.app.project.pipeline` writes `library.yaml`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import yaml

from backdrop.io.files import atomic_path
from backdrop.learn.source_files import PACKAGE, imported_files, reached_from

PACKAGED = Path(__file__).parent / "pipeline"

LIBRARY = "library.yaml"
"""What the stage `library` writes, in a project."""

LIBRARY_STAGE = "library"

OWN_VALUES = "conf/backdrop.yaml"
"""The clone's conf/config.yaml in a project, whose own conf/config.yaml has it as its base."""

EMBEDDED = "render"
"""The stage that renders the embedded footage."""

_CLONE_ALONE = r"stages/s0_render\.py|conf/data/synthetic\.yaml|conf/ablation/(?!none\.yaml).*"
"""What a project lacks: the embedded footage, and the grid of `make ablations`."""

_LIBRARY_STAGE = f"""\
  {LIBRARY_STAGE}:
    cmd: python -m backdrop.app.project.pipeline
    always_changed: true
    outs:
      - {LIBRARY}:
          cache: false
"""


def pipeline_folder() -> Path:
    """Where conf/, stages/ and dvc.yaml of the installed version lie."""
    return PACKAGED if PACKAGED.is_dir() else PACKAGE.parent


def installed_version() -> str:
    """Of Backdrop; "unknown" where it is run without having been installed."""
    try:
        return version("backdrop")
    except PackageNotFoundError:
        return "unknown"


def pipeline_files() -> dict[str, str]:
    """The files that a project has from the installed version: path in the project -> text."""
    root = pipeline_folder()
    found = {"dvc.yaml": project_stages(_text_of(root / "dvc.yaml")), ".dvcignore": _text_of(root / ".dvcignore")}
    for path in sorted(
        [*(root / "stages").glob("*.py"), *(root / "conf").rglob("*.yaml"), *(root / "conf").rglob("*.py")]
    ):
        name = path.relative_to(root).as_posix()
        if not re.fullmatch(_CLONE_ALONE, name):
            found[OWN_VALUES if name == "conf/config.yaml" else name] = _text_of(path)
    found[OWN_VALUES] = (
        f"# Backdrop's own values. An update replaces this file: yours go into conf/config.yaml.\n{found[OWN_VALUES]}"
    )
    return found


def project_stages(text: str) -> str:
    """dvc.yaml for a project: that of the clone, with the hashes of `library.yaml` in place of the library's files."""
    lines = ["# What runs, in which order. An update of Backdrop replaces this file, unless you have edited it."]
    name = ""
    for line in text[text.index("stages:\n") :].splitlines():
        stage = re.fullmatch(r"  (\w+):", line)
        name = stage[1] if stage else name
        if name == EMBEDDED or line.startswith("      - backdrop/"):
            continue
        lines.append(line)
        if line == "stages:":
            lines += _LIBRARY_STAGE.splitlines()
        elif line == "    params:":
            lines += [f"      - {LIBRARY}:", f"          - library.{name}"]
    return "\n".join(lines) + "\n"


def library_hashes() -> dict[str, str]:
    """Stage -> a hash of the files of the library that it imports; and `version`, that of the library."""
    found = {"version": installed_version()}
    for name, file in _stage_files():
        digest = hashlib.sha256()
        for path in sorted(reached_from(imported_files(file))):
            digest.update(path.relative_to(PACKAGE).as_posix().encode() + b"\0")
            digest.update(hashlib.sha256(path.read_bytes()).digest())
        found[name] = digest.hexdigest()[:16]
    return found


def write_library(path: Path) -> None:
    """Write `library_hashes` to a file.

    Raises:
        WriteError: it cannot be written.
    """
    text = yaml.safe_dump({"library": library_hashes()}, sort_keys=False)
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _stage_files() -> Iterator[tuple[str, Path]]:
    """The stages of a project with the files that they run."""
    root = pipeline_folder()
    stages = yaml.safe_load(project_stages(_text_of(root / "dvc.yaml")))["stages"]
    for name, stage in stages.items():
        if name != LIBRARY_STAGE:
            yield name, root / next(word for word in stage["cmd"].split() if word.startswith("stages/"))


def _text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


if __name__ == "__main__":
    from backdrop.stage import run

    run(lambda: write_library(Path(LIBRARY)))
