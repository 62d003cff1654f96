"""The pipeline's files go into the wheel, where `backdrop new` finds them. All else stands in pyproject.toml."""

from __future__ import annotations

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

PIPELINE = ("conf", "stages", "dvc.yaml", ".dvcignore", ".dvc/config")

PLACE = Path("backdrop", "app", "project", "pipeline")
"""In the wheel; see backdrop/app/project/pipeline.py."""


class BuildWithPipeline(build_py):
    """The repository holds these files once, at its root: they are copied as the wheel is built."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:  # the clone itself is what is installed
            return
        target = Path(self.build_lib) / PLACE
        shutil.rmtree(target, ignore_errors=True)
        for name in PIPELINE:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            if Path(name).is_dir():
                shutil.copytree(name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copyfile(name, target / name)


setup(cmdclass={"build_py": BuildWithPipeline})
