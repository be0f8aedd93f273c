"""Attacks on what a run discloses, in pure tensors: each beside the value that it would have without information."""
