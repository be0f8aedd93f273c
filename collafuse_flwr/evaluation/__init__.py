"""Measures of quality (distances, coverage, train-synthetic-test-real) and of cost, on plain tensors."""
