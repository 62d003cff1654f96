"""Shared parts that deal with motion: homographies, flow fields, stabilized neighbors, blobs, MOG2."""
