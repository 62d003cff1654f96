"""Tests of bundle adjustment over a video."""
