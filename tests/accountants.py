"""Google's accountant for tests, imported before anything that imports it in the middle of one."""

from __future__ import annotations

import sys

import absl.logging
from dp_accounting import GaussianDpEvent, NeighboringRelation, PoissonSampledDpEvent, SelfComposedDpEvent
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant

# dp_accounting imports absl, whose handler keeps the stderr of the moment, which is pytest's, and closes it when Hydra
# sets up logging in a test that has a stderr of its own.
absl.logging.get_absl_handler().python_handler.stream = sys.__stderr__

__all__ = [
    "GaussianDpEvent",
    "NeighboringRelation",
    "PLDAccountant",
    "PoissonSampledDpEvent",
    "RdpAccountant",
    "SelfComposedDpEvent",
]
