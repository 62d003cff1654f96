"""How `params.yaml` is described, read and checked."""
