"""Killed anywhere: `dvc repro` dies by SIGKILL at random moments, runs again, and gives what an undisturbed run gives.

BACKDROP_KILLS is the number of kills per stage. What DVC itself can leave half-written is tested at the end.
"""

from __future__ import annotations

import os
import random
import re
import subprocess
import time
from collections import Counter

import pytest
import yaml

from tests.project_copy import Project, kill, new_project, remove
from tests.small_pipeline import ROOT

MENDED_BY = {
    r"dvc\.lock' (is invalid|validation failed)": ("git", "checkout", "dvc.lock"),
    "Unable to read RWLock-file": ("rm", ".dvc/tmp/rwlock"),
}
"""What DVC says of a file of its own that a kill cut off, and the README's command."""
KILLS = int(os.environ.get("BACKDROP_KILLS", "10"))


def addresses() -> list[str]:
    """What DVC calls the stages, a matrix written out."""
    spec = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    return [
        name if not kind else f"{name}@{kind}"
        for name, stage in spec.items()
        for kind in stage.get("matrix", {}).get("kind", [""])
    ]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """After an undisturbed `dvc repro`."""
    project = new_project(tmp_path_factory.mktemp("kills"), {})
    project("dvc", "repro")
    project("git", "add", "-A")
    project("git", "commit", "-qm", "Run")
    return project


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """After the first two stages alone."""
    project = new_project(tmp_path_factory.mktemp("begun"), {"footage.frames": 8})
    project("dvc", "repro", "frames")
    project("git", "add", "-A")
    project("git", "commit", "-qm", "Run")
    return project


def go_on(project: Project, name: str, expected: dict[str, dict[str, str]], goal: str | None = None) -> Counter[str]:
    """`dvc repro` after a kill; what became of it, in numbers.

    tried; again: the stage ran again; by hand: a file of DVC's had to be mended as the README says; lost: it failed;
    wrong: other hashes than those of the undisturbed run, or something left over.

    Args:
        goal: None: everything.
    """
    repro = ("dvc", "repro", *([goal] if goal else []))
    counts = Counter(tried=1)
    status, said = project.run(*repro)
    for complaint, command in MENDED_BY.items():
        if status and re.search(complaint, said):
            counts["by hand"] += 1
            project(*command)
            status, said = project.run(*repro)
    counts["again"] += name.split("@")[0] in project.ran(said)
    if status:
        counts["lost"] += 1
        print(f"{name}:\n{said}")
        project("git", "checkout", "dvc.lock")
        project(*repro, "--force")
    elif project.locked() != expected or project.leftovers():
        counts["wrong"] += 1
        found = {stage: outs for stage, outs in project.locked().items() if outs != expected.get(stage)}
        print(f"{name}: {found}, left: {project.leftovers()}")
        for path in project.leftovers():  # not to be counted again
            remove(project.root / path)
    return counts


def kills_at_random(project: Project, name: str, kills: int) -> Counter[str]:
    """Make a stage stale, kill its run, go on; so often, at moments spread over what an undisturbed run lasts.

    late: the run had ended by then.
    """
    expected, draw, counts = project.locked(), random.Random(name), Counter[str]()
    project.forget(name)
    start = time.monotonic()
    project("dvc", "repro", "--single-item", name)
    lasts = time.monotonic() - start
    assert project.locked() == expected, f"{name}: an undisturbed second run gives other hashes"
    for number in range(kills):
        project.forget(name)
        moment = (number + draw.random()) / kills * lasts
        process = project.start("dvc", "repro", "--single-item", name)
        start = time.monotonic()
        try:
            process.wait(timeout=moment)
        except subprocess.TimeoutExpired:
            kill(process)
        else:  # the machine was slower when the length was measured
            process.communicate()
            counts["late"] += 1
            lasts = min(lasts, time.monotonic() - start)
        found = go_on(project, name, expected)
        if found["lost"] or found["wrong"]:
            print(f"that was {name}, killed after {moment:.2f} of {lasts:.2f} s")
        counts += found
    return counts


def judge(name: str, counts: Counter[str], capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        print(f"\n{name}:", ", ".join(f"{counts[key]} {key}" for key in ("tried", "late", "again", "by hand")), end="")
        print(f", {counts['lost']} lost, {counts['wrong']} wrong", end=" ")
    assert counts["again"], "no kill made the stage run again: nothing was tested"
    assert counts["lost"] == counts["wrong"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", addresses())
def test_a_killed_stage_gives_what_an_undisturbed_one_gives(
    name: str, finished: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    judge(name, kills_at_random(finished, name, KILLS), capsys)
    assert finished("dvc", "status", "--json").strip() == "{}", "files and hashes differ"


HALF_WRITTEN = {
    "a key": ("dvc.lock", "dvc.lock' is invalid", lambda text: text[: len(text) // 2].rpartition("hash:")[0] + "hash"),
    "an item": ("dvc.lock", "dvc.lock' validation failed", lambda text: text.rpartition("- path:")[0] + "- pa"),
    "nothing": ("dvc.lock", "dvc.lock' validation failed", lambda text: ""),
    "no lock": (".dvc/tmp/rwlock", "Unable to read RWLock-file", lambda text: ""),
}


@pytest.mark.slow
@pytest.mark.parametrize("part", HALF_WRITTEN)
def test_what_dvc_leaves_half_written_is_named_and_what_the_readme_says_mends_it(part: str, begun: Project) -> None:
    """DVC does not write these whole or not at all: a kill in the very moment leaves a part."""
    path, says, cut = HALF_WRITTEN[part]
    expected, file = begun.locked(), begun.root / path
    begun("dvc", "repro", "frames")
    file.write_text(cut(file.read_text()))
    status, said = begun.run("dvc", "repro", "frames")
    assert status != 0
    assert says in said
    begun(*(("git", "checkout", path) if path == "dvc.lock" else ("rm", path)))
    assert begun.ran(begun("dvc", "repro", "frames")) == set(), "nothing is lost"
    assert begun.locked() == expected


@pytest.mark.parametrize("name", ["render", "frames"])
def test_a_stage_killed_while_it_writes_gives_what_an_undisturbed_one_gives(
    name: str, begun: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = begun.locked()
    begun.forget(name)
    process = begun.start("dvc", "repro", "--single-item", name)
    (out,) = expected[name]
    while not (begun.root / out).exists():
        assert process.poll() is None, "it ended before it began to write"
        time.sleep(0.01)
    kill(process)
    judge(name, go_on(begun, name, expected, "frames"), capsys)
