"""What `dvc exp run` loads when it composes params.yaml: the resolver `reach` of conf/data/*.yaml.

Experiments in the queue run in temporary checkouts, where a path that leads out of the repository leads elsewhere.
Composition still happens in the repository itself, so such a path is made absolute here.
"""

from pathlib import Path

from omegaconf import OmegaConf

REPOSITORY = Path(__file__).resolve().parents[4]


def reach(root: str) -> str:
    """`root`, which is absolute or relative to the repository: as it is inside the repository, else absolute."""
    path = Path(root)
    if path.is_absolute():
        return root
    resolved = (REPOSITORY / path).resolve()
    return root if resolved.is_relative_to(REPOSITORY) else str(resolved)


OmegaConf.register_new_resolver("reach", reach, replace=True)
