"""Entry points: one run, images from it, and side-by-side benchmarks."""
