"""An app of one's own around the strategy."""
