"""Video files, decoded and encoded with PyAV."""
