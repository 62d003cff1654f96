"""The dense CRF, and telling subjects apart."""
