"""Stage flow: optical flow of stabilized pairs. A new flow model is a file here and a line in `models`."""
