"""The comparison of any runs: quality, disclosure and cost, as one page with figures and numbers."""
