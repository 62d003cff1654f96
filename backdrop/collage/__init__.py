"""Collages: rendered clips of random shapes before random backgrounds, and the motion network that learns from them."""
