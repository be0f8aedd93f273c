"""From the settings of a run to what the core works with: the only place where both are known."""
