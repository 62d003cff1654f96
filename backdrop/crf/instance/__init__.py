"""The instance CRF: which subject each pixel of a mask belongs to, where subjects touch."""
