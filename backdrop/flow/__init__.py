"""Stage flow: optical flow of stabilized pairs. A new flow model is one file here and one line in `models.MODELS`."""
