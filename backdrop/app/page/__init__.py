"""The local page of `backdrop demo`."""
