"""Stage render: the embedded footage, with exact truth."""
