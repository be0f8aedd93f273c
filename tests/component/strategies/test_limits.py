"""The two ends of the cut, bit for bit: c = 0 is centralised training, c = 1 is local training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from collafuse_flwr.config.config import Config
from collafuse_flwr.core.rng import named_generator
from collafuse_flwr.core.runtime import threads
from collafuse_flwr.data.federated import federation_data
from collafuse_flwr.data.images import normalize
from collafuse_flwr.diffusion.loss import stratified_steps
from collafuse_flwr.diffusion.setup import DiffusionSetup
from collafuse_flwr.diffusion.train import TrainState, cosine_rate, epoch_batches
from collafuse_flwr.privacy.release import upload_order
from collafuse_flwr.runs.history import History
from collafuse_flwr.setup.diffusion import diffusion_setup
from tests.small_runs import federate, metrics, small


@dataclass(frozen=True)
class PlainDdpm:
    """DDPM training written out (arXiv 2006.11239, algorithm 1), with none of the code for the cut."""

    setup: DiffusionSetup
    learning_rate: float
    state: TrainState
    images: Tensor
    labels: Tensor

    def round(self, number: int, rounds: int, steps: int, batch_size: int, name: tuple[int | str, ...]) -> None:
        """Train one round."""
        schedule, generator = self.setup.schedule, named_generator(*name)
        self.state.network.train()
        for done, rows in enumerate(epoch_batches(len(self.images), batch_size, steps, generator)):
            x_0 = self.images[rows]
            t = stratified_steps(torch.ones_like(rows), schedule.timesteps, generator)
            noise = torch.randn(x_0.shape, generator=generator)
            alpha_bar = schedule.at(t)
            x_t = alpha_bar.sqrt() * x_0 + (1 - alpha_bar).sqrt() * noise
            output = self.state.network(x_t, t - 1, class_labels=self.labels[rows]).sample
            loss = (output - noise).square().mean()
            self.state.optimizer_step(loss, cosine_rate(self.learning_rate, (number - 1 + done / steps) / rounds))


def _reference(config: Config, name: str, images: Tensor, labels: Tensor) -> PlainDdpm:
    setup = diffusion_setup(config)
    _, channels, size, _ = images.shape
    if name == "backbone":
        network = setup.backbone(channels, size, 10)
    else:
        network = setup.denoiser(int(name), channels, size, 10)
    state = TrainState(network, config.train.ema_decay)
    return PlainDdpm(setup, config.train.learning_rate, state, normalize(images), labels)


def _assert_same(expected: TrainState, saved: dict[str, Tensor]) -> None:
    assert expected.state_dict().keys() == saved.keys()
    for key, value in expected.state_dict().items():
        assert torch.equal(value, saved[key]), key


def test_cut_zero_is_centralised_training(tmp_path: Path) -> None:
    """With the whole process on the server, pooling clean uploads trains what pooled images would."""
    config = small(tmp_path, cut_ratio=0, upload__dtype="float32", diffusion__prediction_type="epsilon")
    federate(config)
    data = federation_data(config.data, 3, 0)
    # As they lie in the pool, in which each client's rows have an order of its own.
    secrets = [(tmp_path / "clients" / str(client) / "secret").read_bytes() for client in range(3)]
    whole = [data.client(client).train for client in range(3)]
    parts = [own.subset(upload_order(s, range(1), len(own))) for own, s in zip(whole, secrets, strict=True)]
    images, labels = torch.cat([p.images for p in parts]), torch.cat([p.labels for p in parts])
    plain = _reference(config, "backbone", images, labels)
    left = 0.0
    with threads(1):
        for number in (1, 2):
            left += len(images)
            steps = int(left // 32)
            left -= steps * 32
            plain.round(number, 2, steps, 32, (0, "backbone", "round", number))
    checkpoint = History(tmp_path).load()
    assert checkpoint is not None
    _assert_same(plain.state, checkpoint.tensors["backbone"])
    assert all(client["steps"] == 0 for row in metrics(tmp_path) for client in row["clients"].values())


def test_cut_one_is_local_training(tmp_path: Path) -> None:
    """With the whole process on the clients, each trains alone, and nothing is uploaded."""
    config = small(tmp_path, cut_ratio=1, diffusion__prediction_type="epsilon", client__init_from="backbone")
    federate(config)
    data = federation_data(config.data, 3, 0)
    for client in range(3):
        own = data.client(client).train
        plain = _reference(config, str(client), own.images, own.labels)
        left = 0.0
        with threads(1):
            for number in (1, 2):
                left += len(own)
                steps = int(left // 8)
                left -= steps * 8
                plain.round(number, 2, steps, 8, (0, "client", client, "round", number))
        _assert_same(plain.state, load_file(tmp_path / "clients" / str(client) / "state-000002.safetensors"))
    assert all(row["server"]["steps"] == 0 for row in metrics(tmp_path))
    assert not list((tmp_path / "server" / "pool").iterdir())
