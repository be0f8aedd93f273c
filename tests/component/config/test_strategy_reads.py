"""A strategy reads what its spec says: those settings are recorded that a short run of each really reads."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from collafuse_flwr.config.config import GROUPS, SETTINGS, Config
from collafuse_flwr.config.strategies import STRATEGIES
from simulations.runners.local import run_local
from tests.small_runs import small

PUBLIC = {(group, spec.name): name for name, (group, spec) in SETTINGS.items()}
#: Every access to a setting is slow here.
TINY: dict[str, Any] = {"num_supernodes": 2, "data__max_images": 60, "evaluation__tstr": "none"}
#: What reads settings of any strategy without meaning them: files and names have all of them.
BOOKKEEPING = ("from_flat", "to_flat", "get", "unread")


@contextmanager
def recorded() -> Iterator[set[str]]:
    """The public names of the settings that are read meanwhile."""
    seen: set[str] = set()
    paused = [0]

    def watched(group: str) -> Any:
        def read(self: Any, name: str) -> Any:
            # `replace` and generated comparisons read all fields.
            if (group, name) in PUBLIC and not paused[0]:
                caller = sys._getframe(1)
                if caller.f_globals.get("__name__") != "dataclasses" and caller.f_code.co_filename != "<string>":
                    seen.add(PUBLIC[group, name])
            return object.__getattribute__(self, name)

        return read

    def unwatched(function: Any) -> Any:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            paused[0] += 1
            try:
                return function(*args, **kwargs)
            finally:
                paused[0] -= 1

        return call

    with pytest.MonkeyPatch.context() as patch:
        for group, kind in GROUPS.items():
            patch.setattr(kind, "__getattribute__", watched(group), raising=False)
        for name in BOOKKEEPING:
            method = Config.__dict__[name]
            silent = unwatched(getattr(method, "__func__", method))
            patch.setattr(Config, name, classmethod(silent) if isinstance(method, classmethod) else silent)
        yield seen


DEFAULT_PROCESS = "every client has a diffusion setup; a GAN's makes a schedule at the defaults that nothing uses"
#: Settings that are read without being meant, and why it changes nothing at their default.
HARMLESS = {
    "cut.policy": "at its default, the cut is the settings' or the strategy's",
    "cut.criterion": "at its default, nothing limits the cut",
    "cut.client_ratios": "at its default, all have the cut of the settings",
    "cut_ratio": "folders and lines are named after it; effort is matched to it only where it may be set",
    "client.update_budget": "a whole chain takes all updates either way",
    "client.init_from": "a whole chain starts from no backbone",
    "client.range": "a whole chain is all of its steps either way",
    "sampling.handover": "at its default, samples are handed over where the settings say",
    "sampling.handover_ratio": "at its default, samples are handed over at the cut",
    "codec": "at its default, images are as they were read",
    "deconvolution.iterations": "at its default, no upload is denoised",
    "public.dataset": "at its default, there are no public images",
    "upload.clip_norm": "at its default, nothing is clipped",
    "upload.noise": "at its default, a chain starts at its cut",
    "upload.share_labels": "nothing is uploaded that has labels",
    "dp.noise_multiplier": "at its default, nothing is private",
    "averaging.clip_norm": "at its default, weights leave as they are",
    "averaging.noise": "at its default, weights leave as they are",
    "averaging.finetune_epochs": "at its default, nothing is trained after the last round",
    "gan.wire_dtype": "no activations travel: weights do, as they are",
    "mdgan.local_steps": "at its default, a discriminator takes a step in an iteration",
    "split_gan.replan_rounds": "at its default, cuts stay",
    "devices.slowdowns": "at its default, no device slows down",
    "split_gan.loss": "at its default, nets descend cross-entropies",
    "split_gan.spectral_norm": "at its default, networks are everybody's",
    "split_gan.condition_at": "at its default, networks are everybody's",
    "split_gan.augmentation": "at its default, images are shown as they are",
    "split_gan.ema": "at its default, no weights are averaged over steps",
    "split_gan.fake_labels": "at its default, fakes have the labels of the batch",
    "split_gan.activation_noise": "at its default, there is none",
    "devices.client_memory_mb": "networks of diffusion are not planned by it",
    "diffusion.timesteps": DEFAULT_PROCESS,
    "diffusion.schedule": DEFAULT_PROCESS,
    "diffusion.prediction_type": DEFAULT_PROCESS,
    "train.loss_weighting": DEFAULT_PROCESS,
    "train.min_snr_gamma": DEFAULT_PROCESS,
}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_strategy_declares_what_it_reads(strategy: str, tmp_path: Path) -> None:
    spec = STRATEGIES[strategy]
    given: dict[str, Any] = {"gan__width": 2, "gan__batch_size": 4} if spec.is_gan else {"model": "nano"}
    config = small(tmp_path / "run", strategy=strategy, runner="local", **TINY, **given)
    with recorded() as seen:
        run_local(config)
    declared = {name for name, (group, _) in SETTINGS.items() if spec.reads_setting(group, name)}
    assert seen - declared <= HARMLESS.keys()
    # That the recorder sees at all, in the client and in the server.
    own = {"gan.width", "gan.batch_size"} if spec.is_gan else {"model", "train.learning_rate"}
    assert own | {"seed", "num_rounds", "train.local_epochs", "evaluation.num_samples"} <= seen


def test_the_recorder_tells_reading_from_bookkeeping() -> None:
    config = Config()
    with recorded() as seen:
        config.to_flower()
        config.unread("gan.width")
        assert config == Config.from_flat({})
        replace(config.gan, width=3)
        assert seen == set()
        assert config.gan.width == 64
        assert seen == {"gan.width"}
    assert config.gan.depth == 1
    assert seen == {"gan.width"}
