"""Settings of what is sampled and measured."""

from __future__ import annotations

from dataclasses import dataclass

from collafuse_flwr.core.fields import Texts, setting


@dataclass(frozen=True)
class EvaluationConfig:
    """What is sampled and measured."""

    every: int = setting(0, "rounds between evaluations; 0: only after the last", low=0)
    num_samples: int = setting(2000, "images generated in an evaluation, over all clients", low=2)
    tstr: str = setting("clients", "whose samples train a classifier", choices=("clients", "pooled", "none"))
    inception_weights: str = setting("", "file with Inception's weights, for FID and KID; empty: not measured")
    clip_weights: str = setting("", "file with the weights of CLIP's ViT-B/32, for CLIP-FID; empty: not measured")
    metrics: Texts = setting((), "further metrics of samples, as package.module:METRIC")
