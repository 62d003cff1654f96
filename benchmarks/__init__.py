"""Grids of experiments over the pipeline, and the tables written from them. The library imports nothing of this."""
