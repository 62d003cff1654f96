"""Stage refine: the dense CRF over all predictions."""
