"""Files, images, archives, masks and the index: what the stages read and write."""
