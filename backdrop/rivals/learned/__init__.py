"""Rivals that are networks: some come trained, some learn from the sequence alone; a file each."""
