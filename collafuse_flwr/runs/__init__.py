"""The run folder: settings, metrics, networks, pictures and the summary."""
