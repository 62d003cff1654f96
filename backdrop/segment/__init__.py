"""Stage segment: soft masks of all frames."""
