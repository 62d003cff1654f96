"""Predicting a source that is read once, as it comes: a camera, an address, a pipe."""
