"""Stage stabilize: homographies between neighboring frames."""
