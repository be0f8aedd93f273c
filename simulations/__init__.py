"""Entry points: one run, images from it, and side-by-side benchmarks."""

# First of all, because torch, flwr and Ray read their environment variables when they are imported.
import simulations.runners  # noqa: F401
