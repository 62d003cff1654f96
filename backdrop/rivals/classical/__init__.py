"""Rivals that train no network; a file each."""
