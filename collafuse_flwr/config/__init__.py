"""The settings of a run: frozen dataclasses, validated once, flat on the command line.

Every default lives here and nowhere else. Hydra reads this schema directly; the copy that Flower needs in
`pyproject.toml` is compared with it by a test. A name maps to Flower's run config by `_` -> `-`.
"""
