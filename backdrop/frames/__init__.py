"""Stage frames: data sets and videos into archives of frames."""
