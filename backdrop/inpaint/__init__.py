"""Stage inpaint: the inpainters, trained on random holes."""
