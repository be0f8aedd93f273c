"""Data sets by name, partitions of them among clients, and the per-process cache of both."""
