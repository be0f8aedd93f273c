"""Attacks on what the server of a finished simulation really received, and on the networks that came of it."""
