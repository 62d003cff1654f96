"""Two ways of others to find the subject by the superpixels of many frames at once. Cues and rivals use them."""
