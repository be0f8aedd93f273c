"""The comparison of any runs: what they cost, disclosed and achieved, as one page, its figures and its numbers."""
