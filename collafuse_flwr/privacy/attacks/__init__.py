"""Attacks on what a run gives away, in pure tensors: each beside the value that it would have without information."""

from collafuse_flwr.privacy.attacks.denoising import continued, one_step, single_release, train_shadow
from collafuse_flwr.privacy.attacks.fidelity import Fidelity, measure_fidelity
from collafuse_flwr.privacy.attacks.inversion import gradients, invert_gradient
from collafuse_flwr.privacy.attacks.members import Membership, denoising_losses, membership, predicted_noise_norms
from collafuse_flwr.privacy.attacks.memory import Memorisation, memorisation
from collafuse_flwr.privacy.attacks.naming import Reidentification, reidentify
from collafuse_flwr.privacy.attacks.probing import Probe, probe
from collafuse_flwr.privacy.attacks.split_codes import Codes, invert_codes
from collafuse_flwr.privacy.attacks.split_inversion import Inverted, Stem, invert_stem
from collafuse_flwr.privacy.attacks.split_search import search_split
from collafuse_flwr.privacy.attacks.wiener import Wiener

__all__ = [
    "Codes",
    "Fidelity",
    "Inverted",
    "Membership",
    "Memorisation",
    "Probe",
    "Reidentification",
    "Stem",
    "Wiener",
    "continued",
    "denoising_losses",
    "gradients",
    "invert_codes",
    "invert_gradient",
    "invert_stem",
    "measure_fidelity",
    "membership",
    "memorisation",
    "one_step",
    "predicted_noise_norms",
    "probe",
    "reidentify",
    "search_split",
    "single_release",
    "train_shadow",
]
