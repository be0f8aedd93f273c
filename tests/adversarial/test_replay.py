"""An operator who draws what a client draws, from the seed that it has sent itself, and solves for the images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from collafuse_flwr.client.factory import make_client
from collafuse_flwr.client.fedavg import FedAvgClient
from collafuse_flwr.client.state_store import ClientStore
from collafuse_flwr.config.config import Config
from collafuse_flwr.core.rng import named_generator
from collafuse_flwr.data.federated import load_client_data
from collafuse_flwr.diffusion.loss import stratified_steps
from collafuse_flwr.diffusion.schedule import make_schedule
from collafuse_flwr.diffusion.train import epoch_batches
from collafuse_flwr.wire.codec import Weights
from collafuse_flwr.wire.fedavg import WeightsReply, WeightsRequest
from tests.adversarial.node import OPEN, Node, some_images

#: Of an owner who lets out every number as it is, so that nothing but what is drawn stands in the way.
TALKS = OPEN + 'weights = "always"\nnumbers = ["loss"]\nmin_number_images = 1\nnumber_step = 1e-9\nmax_number = 1e6\n'
STEPS, BATCH = 100, 8
#: One step of a round, of which nothing but a loss comes back.
ONE_STEP: dict[str, Any] = {
    "strategy": "fedavg",
    "client__batch_size": BATCH,
    "train__local_epochs": 0.5,
    "data__conditioning": "none",
    "diffusion__timesteps": STEPS,
}


def same_images(folder: Path, image: NDArray[np.uint8]) -> Node:
    """A client whose images are all one, so that it tells nothing which of them, in what order, are in a batch."""
    return Node(folder, TALKS, np.repeat(image[None], 20, axis=0))


def ask(node: Node, round_: int, weights: Weights, part: str = "none", run: int = 1) -> Any:
    request = WeightsRequest(round=round_, num_rounds=1000, weights=weights, part=part, want_averaged=False)
    return node.ask("train", request, WeightsReply, run, **ONE_STEP)


def drawn(round_: int, images: int) -> tuple[Tensor, Tensor]:
    """The steps and noise of a round's one batch, if they were drawn from the run's seed."""
    generator = named_generator(0, "client", 0, "round", round_)
    (rows,) = epoch_batches(images, BATCH, 1, generator)
    t = stratified_steps(torch.ones_like(rows), STEPS, generator)
    return t, torch.randn((BATCH, 1, 8, 8), generator=generator)


def test_no_losses_at_chosen_weights_add_up_to_an_image(tmp_path: Path) -> None:
    """Where a network answers 0, its loss |v|^2 is one linear equation for the image: ninety gave it at 125 dB."""
    (image,) = some_images(1)
    node = same_images(tmp_path, image)
    x_0, schedule = node.x_0()[0, 0].flatten().double(), make_schedule("linear", STEPS)
    images, equations, losses = len(node.x_0()), [], []
    weights = ask(node, 1, {}, "all").weights
    zeros = {name: torch.zeros_like(value) for name, value in weights.items() if name.startswith("conv_out.")}
    for round_ in range(2, 82):
        loss = ask(node, round_, zeros).metrics.loss
        t, noise = drawn(round_, images)
        alpha_bar, noise = schedule.at(t).double().flatten()[:, None], noise.flatten(1).double()
        # |sqrt(a) n - sqrt(1 - a) x|^2 = a |n|^2 - 2 sqrt(a (1 - a)) n x + (1 - a) |x|^2, with |x|^2 one more unknown.
        linear = (-2 * (alpha_bar * (1 - alpha_bar)).sqrt() * noise).mean(0)
        equations.append(torch.cat([linear, (1 - alpha_bar).mean(0)]) / x_0.numel())
        losses.append(loss - float((alpha_bar * noise.square()).mean()))
    solved = torch.linalg.lstsq(torch.stack(equations), torch.tensor(losses).double()[:, None]).solution[:-1, 0]
    assert float((solved - x_0).square().mean()) > float(x_0.var())
    assert float(torch.corrcoef(torch.stack([solved, x_0]))[0, 1]) < 0.6


def test_a_guessed_image_does_not_give_a_clients_loss_and_weights_again(tmp_path: Path) -> None:
    """An operator that ran the client's code with the seed it had sent had both exactly, if its guess was right."""
    (image,) = some_images(1)
    node = same_images(tmp_path, image)
    real = ask(node, 1, {}, "all")
    (tmp_path / "guess").mkdir()
    guess = same_images(tmp_path / "guess", image)
    config = Config.from_flat(guess.run_config(**ONE_STEP))
    data = load_client_data(config.data, bytes(16), guess.node["data-path"], str(tmp_path / "cache"))
    client = make_client(config, 0, data, ClientStore(tmp_path / "guessed"), seeded_secret=True)
    assert isinstance(client, FedAvgClient)
    again = client.on_train(WeightsRequest(round=1, num_rounds=1000, weights={}, part="all", want_averaged=False))
    assert again.weights.keys() == real.weights.keys()
    assert again.metrics.loss != pytest.approx(real.metrics.loss, abs=1e-4)
    assert any(not torch.equal(value, real.weights[name]) for name, value in again.weights.items())


def test_another_run_is_no_second_equation_for_the_same_draws(tmp_path: Path) -> None:
    """Chosen weights in one run after the other would be equations for the same unknowns.

    Where a network answers 0, its loss hangs on what is drawn alone.
    """
    node, losses = same_images(tmp_path, some_images(1)[0]), []
    for run in (1, 2, 3):
        weights = ask(node, 1, {}, "all", run).weights
        zeros = {name: torch.zeros_like(value) for name, value in weights.items() if name.startswith("conv_out.")}
        losses.append(ask(node, 2, zeros, run=run).metrics.loss)
    assert len(set(losses)) == 3
