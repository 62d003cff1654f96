"""Stage train: joint training of detector and synthesis network (Algorithm 1)."""
