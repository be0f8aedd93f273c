"""The process that server and clients agree on: one chain, cut in two."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from collafuse_flwr.config.config import Config
from collafuse_flwr.core.errors import SettingError
from collafuse_flwr.diffusion.schedule import make_schedule
from collafuse_flwr.diffusion.setup import CALL_PIXELS, DiffusionSetup, SampleBatch, named_noise
from collafuse_flwr.setup.diffusion import diffusion_setup
from tests.small_runs import dotted


def setup(**given: Any) -> DiffusionSetup:
    return diffusion_setup(
        Config.from_flat({"device": "cpu", "diffusion.timesteps": 20, "sampling.steps": 0} | dotted(given))
    )


class Pull(nn.Module):
    """A denoiser that says that the noise is a fixed part of what it sees, and notes the steps of its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[int] = []

    def forward(self, x: Tensor, t: Tensor, class_labels: Tensor | None = None) -> Tensor:
        self.steps.append(int(t[0]) + 1)
        return 0.6 * x


def weights(network: nn.Module) -> Tensor:
    return torch.cat([value.flatten() for value in network.state_dict().values()])


@pytest.mark.parametrize("schedule", ["cosine", "linear", "sigmoid"])
def test_it_is_what_the_settings_say(schedule: str) -> None:
    made = setup(
        diffusion__schedule=schedule,
        diffusion__timesteps=30,
        diffusion__prediction_type="epsilon",
        train__loss_weighting="min_snr",
        train__min_snr_gamma=3.0,
        precision="bfloat16",
    )
    assert torch.equal(made.schedule.alpha_bar, make_schedule(schedule, 30).alpha_bar)
    assert (made.objective.prediction, made.objective.weighting, made.objective.gamma) == ("epsilon", "min_snr", 3.0)
    assert made.runtime.dtype is torch.bfloat16


def test_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SettingError, match=r"^`device` = 'cuda'"):
        setup(device="cuda")


@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize(
    ("condition", "share_labels", "backbone", "denoiser"),
    [
        ("classes", True, (4, 0), (4, 0)),
        ("classes", False, (0, 0), (4, 0)),
        ("attributes", True, (0, 6), (0, 6)),
        ("attributes", False, (0, 0), (0, 6)),
        ("none", True, (0, 0), (0, 0)),
        ("none", False, (0, 0), (0, 0)),
    ],
)
def test_the_server_conditions_only_on_labels_that_are_shared(
    condition: str, share_labels: bool, backbone: tuple[int, int], denoiser: tuple[int, int], dropout: float
) -> None:
    """A client knows its own in any case; both know a label more where a client drops some."""
    made = setup(data__conditioning=condition, upload__share_labels=share_labels, train__cfg_dropout=dropout)
    networks: list[Any] = [made.backbone(1, 8, 4, 6), made.denoiser(0, 1, 8, 4, 6)]
    for network, (classes, attributes) in zip(networks, (backbone, denoiser), strict=True):
        embedding, extra = network.class_embedding, int(dropout > 0)
        if classes:
            assert embedding.num_embeddings == classes + extra
        elif attributes:
            assert embedding.in_features == attributes + extra
        else:
            assert embedding is None


def test_guidance_calls_the_network_with_the_null_label_as_well() -> None:
    """A network that predicts its label as noise: guided it is w y, and without a label 0."""

    class Said(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("null_label", torch.tensor(0), persistent=False)
            self.calls: list[Tensor] = []

        def forward(self, x: Tensor, t: Tensor, class_labels: Tensor) -> Tensor:
            self.calls.append(class_labels)
            return class_labels.view(-1, 1, 1, 1).expand_as(x).float()

    made, labels = setup(diffusion__prediction_type="epsilon"), torch.tensor([1, 2])
    x_t, grid = torch.zeros(2, 1, 4, 4), [1, 0]
    plain, twice = (made.sample(Said(), x_t, grid, labels * w, (0,)) for w in (1, 2))
    network = Said()
    assert torch.equal(made.sample(network, x_t, grid, labels, (0,), guidance=2.0), twice)
    assert [call.tolist() for call in network.calls] == [[0, 0], [1, 2]]
    network = Said()
    assert torch.equal(made.sample(network, x_t, grid, labels, (0,), guidance=1.0), plain)
    assert [call.tolist() for call in network.calls] == [[1, 2]]
    unconditional = made.sample(Said(), x_t, grid, None, (0,))
    assert torch.equal(made.sample(Said(), x_t, grid, labels, (0,), guidance=0.0), unconditional)
    assert not torch.equal(plain, twice)


def test_a_client_has_the_servers_network_unless_configured_otherwise() -> None:
    sizes = {
        name: len(weights(setup(model="tiny", client__model=name).denoiser(0, 1, 8, 0)))
        for name in ("same", "tiny", "paper")
    }
    assert sizes["same"] == sizes["tiny"] == len(weights(setup(model="tiny").backbone(1, 8, 0)))
    assert sizes["paper"] != sizes["tiny"]
    assert len(weights(setup(model="paper", client__model="same").denoiser(0, 1, 8, 0))) == sizes["paper"]


def test_every_network_starts_with_weights_of_its_own() -> None:
    made = setup()
    networks = [made.backbone(1, 8, 0), made.denoiser(0, 1, 8, 0), made.denoiser(1, 1, 8, 0)]
    assert len({weights(network).sum().item() for network in networks}) == 3
    assert torch.equal(weights(networks[2]), weights(setup().denoiser(1, 1, 8, 0)))
    assert not torch.equal(weights(networks[2]), weights(setup(seed=1).denoiser(1, 1, 8, 0)))


@pytest.mark.parametrize(("server_steps", "client_steps"), [(0, 0), (3, 2), (100, 100)])
@pytest.mark.parametrize("cut", [0, 1, 7, 19, 20])
def test_the_two_grids_are_one_chain_cut_in_two(cut: int, server_steps: int, client_steps: int) -> None:
    made = setup(sampling__server_steps=server_steps, sampling__client_steps=client_steps)
    server, client = made.server_grid(cut), made.client_grid(cut)
    assert (server[0], server[-1], client[0], client[-1]) == (20, cut, cut, 0)
    if not server_steps:
        assert server + client[1:] == list(range(20, -1, -1))
    else:
        assert len(server) - 1 == min(server_steps, 20 - cut)
        assert len(client) - 1 == min(client_steps, cut)


def test_the_authors_clients_start_beyond_their_cut() -> None:
    """At k (2 - c), where the level is about the alpha_bar[k]^2 that their server hands over at (cosine schedule)."""
    made = setup(upload__noise="official", diffusion__timesteps=100)
    assert [made.client_start_step(cut) for cut in (0, 20, 50, 80, 100)] == [0, 36, 75, 96, 100]
    assert made.client_grid(20)[0] == 36
    assert made.server_grid(20)[-1] == 20
    for upload in ("fixed", "resampled"):
        assert [setup(upload__noise=upload).client_start_step(cut) for cut in range(21)] == list(range(21))


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
@pytest.mark.parametrize("cut", [0, 1, 7, 19, 20])
def test_with_one_network_and_one_noise_the_cut_changes_no_bit(sampler: str, cut: int) -> None:
    made, network = setup(sampling__sampler=sampler), Pull()
    x_t = torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    whole = made.sample(network, x_t, made.server_grid(0), None, (0, "chain"))
    network.steps.clear()
    handed = made.sample(network, x_t, made.server_grid(cut), None, (0, "chain"))
    assert network.steps == list(range(20, cut, -1))
    finished = made.sample(network, handed, made.client_grid(cut), None, (0, "chain"))
    assert network.steps == list(range(20, 0, -1))
    assert torch.equal(finished, whole)


def test_only_the_noise_of_its_name_and_nothing_else_decides_a_sample() -> None:
    made, x_t = setup(sampling__sampler="ddpm"), torch.zeros(2, 1, 4, 4)

    def sample(*name: int | str) -> Tensor:
        return made.sample(Pull(), x_t, made.server_grid(5), None, name)

    first = sample(0, "finish", 1)
    torch.randn(3)
    assert torch.equal(sample(0, "finish", 1), first)
    assert not torch.equal(sample(0, "finish", 2), first)
    assert not torch.equal(first[0], first[1]), "every image has noise of its own"


def test_sampling_leaves_the_input_alone_and_the_network_ready_to_sample() -> None:
    made, network = setup(), Pull().train()
    x_t = torch.ones(2, 1, 4, 4)
    made.sample(network, x_t, made.server_grid(5), None, (0,))
    assert torch.equal(x_t, torch.ones_like(x_t))
    assert not network.training


def test_labels_reach_the_network() -> None:
    """A network that predicts black or white, by class, draws black or white."""

    class Painter(nn.Module):
        def forward(self, x: Tensor, t: Tensor, class_labels: Tensor) -> Tensor:
            alpha_bar = made.schedule.at(t + 1)
            image = class_labels.view(-1, 1, 1, 1).float()
            return (x - alpha_bar.sqrt() * image) / (1 - alpha_bar).sqrt()

    made = setup(sampling__sampler="ddim", diffusion__prediction_type="epsilon")
    x = made.sample(Painter(), torch.zeros(2, 1, 4, 4), made.server_grid(0), torch.tensor([-1, 1]), (0,))
    torch.testing.assert_close(x, torch.tensor([-1.0, 1.0]).view(2, 1, 1, 1).expand_as(x), rtol=0, atol=1e-4)


@pytest.mark.parametrize("sampler", ["ddpm", "dpm++"])
def test_batches_that_are_sampled_together_come_out_as_alone(sampler: str) -> None:
    """The same noise, by name; float32 sums in calls of another size differ by less than 1e-5 here."""
    made = setup(sampling__sampler=sampler, model="nano", sampling__guidance_scale=1.5, train__cfg_dropout=0.1)
    network = made.denoiser(0, 1, 8, 10)
    draws = torch.Generator().manual_seed(0)
    batches = [
        SampleBatch(torch.randn(count, 1, 8, 8, generator=draws), torch.arange(count) % 10, ("client", count))
        for count in (2, 3, 7)
    ]
    grid = made.client_grid(6)
    together = made.sample_together(network, batches, grid, 1.5)
    for batch, x in zip(batches, together, strict=True):
        alone = made.sample(network, batch.x, grid, batch.labels, batch.name, 1.5)
        torch.testing.assert_close(x, alone, rtol=0, atol=1e-5)
        assert not torch.equal(x, batch.x)


def test_a_call_that_samples_has_about_as_many_pixels_at_any_size() -> None:
    made = setup()
    assert [made.call_rows(size) * size**2 for size in (8, 32, 64)] == [CALL_PIXELS["cpu"]] * 3
    assert made.call_rows(1024) == 1


def test_named_noise_is_a_function_of_name_step_and_shape() -> None:
    draw, shape = named_noise((0, "finish")), torch.Size((4, 1, 2, 2))
    later = draw(7, shape)
    draw(8, shape)
    assert torch.equal(draw(7, shape), later)
    assert torch.equal(named_noise((0, "finish"))(7, shape), later)
    others = [draw(8, shape), named_noise((1, "finish"))(7, shape), named_noise((0, "begin"))(7, shape)]
    assert not any(torch.equal(other, later) for other in others)


def test_named_noise_is_standard_normal_and_new_at_every_step() -> None:
    """Of 20,000 values mean and variance have standard deviations of 0.007 and 0.01, correlations one of 0.007."""
    draw = named_noise((0, "finish"))
    noise = torch.stack([draw(t, torch.Size((20_000,))) for t in range(1, 6)])
    assert noise.mean(dim=1).abs().max() < 0.035
    assert (noise.var(dim=1) - 1).abs().max() < 0.05
    assert (torch.corrcoef(noise) - torch.eye(5)).abs().max() < 0.035


@pytest.mark.parametrize("cut", range(0, 21, 5))
def test_sampling_steps_are_shared_in_proportion_to_the_cut(cut: int) -> None:
    made = setup(sampling__steps=8)
    server, client = made.server_grid(cut), made.client_grid(cut)
    assert (len(server) - 1, len(client) - 1) == (8 - 2 * cut // 5, 2 * cut // 5)
    assert server[-1] == client[0] == cut


def test_a_side_with_little_to_do_has_a_step() -> None:
    made = setup(sampling__steps=2)
    assert made.server_grid(19) == [20, 19]
    assert made.client_grid(1) == [1, 0]
