"""The strategies in groups, by their traits."""

from __future__ import annotations

from collafuse_flwr.config.strategies import STRATEGIES

GANS = tuple(name for name, spec in STRATEGIES.items() if spec.is_gan)
#: Whole denoisers in the clients, averaged in all or part.
FEDERATED = tuple(name for name, spec in STRATEGIES.items() if spec.averages_denoisers)
#: Those that cut where the settings say.
SPLIT = tuple(name for name, spec in STRATEGIES.items() if spec.fixed_cut is None)
#: Those whose clients may differ in their cuts.
MIXED = tuple(name for name, spec in STRATEGIES.items() if "cut" in spec.reads)
