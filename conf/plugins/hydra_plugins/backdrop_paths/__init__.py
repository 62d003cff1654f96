"""What `dvc exp run` loads when it composes params.yaml: the resolvers of conf/data/*.yaml: `reach`, `labels_of`
and `roi_of`.

Experiments of --temp and --queue run in checkouts of their own, where a path that leads out of the repository leads
elsewhere. Composition still happens in the repository itself, so such a path is made absolute for them. In the
repository it stays as it is: moved together with the footage, the project reads the footage where it is then.
"""

import os
import sys
from pathlib import Path

from omegaconf import OmegaConf

REPOSITORY = Path(__file__).resolve().parents[4]


def reach(root: str) -> str:
    """Where `root` lies, which is absolute, in the home folder (~), or relative to the repository."""
    path = Path(os.path.expanduser(root))
    if path.is_absolute() or not _runs_elsewhere():
        return str(path) if root.startswith("~") else root
    resolved = (REPOSITORY / path).resolve()
    return root if resolved.is_relative_to(REPOSITORY) else str(resolved)


def labels_of(root: str) -> str:
    """What holds a user's labels: the footage's folder, in which they are `labels/`; of one video the folder beside it.

    DVC watches it, so it must be there: where no labels are, it is the footage.
    """
    path = Path(reach(root))
    beside = path.parent / "labels"
    there = (REPOSITORY / path).is_file() and (REPOSITORY / beside).is_dir()
    return str(beside) if there else reach(root)


def roi_of(roi: str | None) -> str:
    """Where `roi` lies, as `reach` has it; where there is none, this file.

    DVC watches it, so it must be there, and DVC wants no path twice: the footage it watches already.
    """
    return Path(__file__).resolve().relative_to(REPOSITORY).as_posix() if roi is None else reach(roi)


def _runs_elsewhere() -> bool:
    """Whether the command is a `dvc exp run` with --temp or --queue, which may be shortened."""
    words = [word for word in sys.argv[1:] if len(word) > len("--")]
    return any(option.startswith(word) for word in words for option in ("--temp", "--queue"))


OmegaConf.register_new_resolver("reach", reach, replace=True)
OmegaConf.register_new_resolver("labels_of", labels_of, replace=True)
OmegaConf.register_new_resolver("roi_of", roi_of, replace=True)
