"""Attacks on what a run gives away, in pure tensors: each beside the value that it would have without information."""
