"""Collaborative generative training on Flower: split diffusion over clients that keep their images.

    import collafuse_flwr as cf

    run = cf.train(dataset="digits", cut_ratio=0.3, num_rounds=5, output="runs/first")
    images = run.pipeline(client=2)(num_images=4, class_labels=5).images

All but the pipeline are those of `simulations.api`, where they are documented.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collafuse_flwr.diffusion.pipeline import CollaFusePipeline
    from simulations.api import attack, generate, load, partitioner, report, train

__version__ = "0.1.0"
__all__ = ["CollaFusePipeline", "attack", "generate", "load", "partitioner", "report", "train"]


def __getattr__(name: str) -> Any:
    """What is above, imported when it is first used.

    Its functions drive the runners, which import this package, torch and Ray: nothing of it is needed to import a part
    of this package, and at import time nothing here may depend on what is above it.
    """
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415 - as light as can be

    pipeline = name == "CollaFusePipeline"
    return getattr(import_module("collafuse_flwr.diffusion.pipeline" if pipeline else "simulations.api"), name)


def __dir__() -> list[str]:
    return sorted((*globals(), *__all__))
