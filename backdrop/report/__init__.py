"""Stage report: one page for a person to read."""
