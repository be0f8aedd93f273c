"""Settings of the diffusion process, of both sides' training, and of sampling."""

from __future__ import annotations

from dataclasses import dataclass

from collafuse_flwr.core.fields import setting

#: Presets of networks, from the smallest.
MODELS = ("nano", "tiny", "small", "base", "paper")
#: When settings of generating are read.
_GENERATE: tuple[dict[str, object], ...] = ({"task": "generate"},)


@dataclass(frozen=True)
class DiffusionConfig:
    """The diffusion process that both sides share, and its network."""

    model: str = setting(
        "tiny",
        "the network, the backbone's in a split: nano (0.2 M parameters), tiny (0.6 M), small (2.5 M), base (15.7 M), "
        "or paper (3.9 M)",
        choices=MODELS,
        or_path=True,
        top=True,
    )
    start_from: str = setting(
        "",
        "folder of a run, or of a diffusers pipeline, whose denoiser all networks start from; empty: from scratch",
        top=True,
    )
    timesteps: int = setting(100, "T, the steps of the diffusion process", low=2, high=10000)
    schedule: str = setting("cosine", "the noise schedule", choices=("cosine", "linear", "sigmoid"))
    prediction_type: str = setting("v_prediction", "what the networks predict", choices=("epsilon", "v_prediction"))


@dataclass(frozen=True)
class ClientConfig:
    """A client's denoiser and how much it trains."""

    model: str = setting("same", "preset of the clients' denoisers", choices=("same", *MODELS), or_path=True)
    batch_size: int = setting(8, "images in a batch of a client", low=1)
    update_budget: str = setting("proportional", "image updates of a client", choices=("proportional", "full"))
    init_from: str = setting("backbone", "start of a client's denoiser", choices=("random", "backbone"))
    range: str = setting("cut", "steps that a client's denoiser trains: up to its cut, or all", choices=("cut", "all"))
    trained_parts: str = setting(
        "all",
        "parts of a client's denoiser that it trains, with the label's embedding; the others stay as they started",
        choices=("all", "encoder", "bottleneck", "decoder", "encoder+bottleneck", "bottleneck+decoder"),
    )
    start_round: int = setting(
        0, "round in which clients take the backbone; 0: chosen", low=0, when=({"client.init_from": "backbone"},)
    )


@dataclass(frozen=True)
class ServerConfig:
    """How much the backbone trains."""

    batch_size: int = setting(128, "images in a batch of the server", low=1)
    update_multiplier: float = setting(1.0, "the backbone's image updates, in multiples of its share", above=0)
    holdout_fraction: float = setting(
        0.0,
        "share of the uploads that the backbone is measured on, and not trained on, to keep its best weights; 0: none",
        low=0,
        high=0.5,
    )


@dataclass(frozen=True)
class DeconvolutionConfig:
    """What the server learns below the cuts, from uploads alone (SFBD, arXiv 2502.05446)."""

    iterations: int = setting(
        0,
        "times that the server denoises the uploads, to train the steps up to their cuts on what comes; 0: never",
        low=0,
    )
    sampling_steps: int = setting(0, "sampling steps of an upload that is denoised; 0: every step up to its cut", low=0)


@dataclass(frozen=True)
class TrainConfig:
    """How both sides are optimised."""

    match: str = setting(
        "image_updates", "what strategies have in common", choices=("image_updates", "client_flops", "traffic")
    )
    local_epochs: float = setting(10.0, "passes over the images that a full DDPM would make in a round", above=0)
    learning_rate: float = setting(2e-3, "Adam's step size", low=1e-8, high=1)
    lr_schedule: str = setting("cosine", "learning rate over the rounds", choices=("constant", "cosine"))
    ema_decay: float = setting(0.999, "decay of the averaged weights that sample", low=0, high=1)
    loss_weighting: str = setting("uniform", "weight of a step in the loss", choices=("uniform", "min_snr"))
    min_snr_gamma: float = setting(
        5.0, "gamma of min-SNR weighting", low=1e-3, high=1e6, when=({"train.loss_weighting": "min_snr"},)
    )
    cfg_dropout: float = setting(
        0.0, "share of training images whose condition is dropped, for `sampling.guidance_scale`", low=0, high=1
    )
    random_hflip: bool = setting(False, "mirror training images left to right at random, on both sides")


@dataclass(frozen=True)
class FedProxConfig:
    """FedProx (arXiv 1812.06127)."""

    proximal_mu: float = setting(0.01, "pull towards the global weights", low=0, high=1e6)


@dataclass(frozen=True)
class SamplingConfig:
    """How images are sampled."""

    sampler: str = setting("dpm++", "the sampler", choices=("ddpm", "ddim", "dpm++"))
    steps: int = setting(25, "sampling steps of the whole chain; 0: every step", low=0)
    server_steps: int = setting(0, "sampling steps above the cut; 0: its share of `sampling.steps`", low=0)
    client_steps: int = setting(0, "sampling steps below the cut; 0: its share of `sampling.steps`", low=0)
    handover: str = setting(
        "fixed",
        "where clients take over: as the settings say, or best: each where its held-out images say, on its machine",
        choices=("fixed", "best"),
    )
    handover_ratio: float = setting(
        0.0,
        "where clients take over, as a share of T, if that is above their cut; 0: at the cut",
        low=0,
        high=1,
        when=({"client.range": "all", "sampling.handover": "fixed"},),
    )
    guidance_scale: float = setting(1.0, "weight of the condition in every network that has it; 1: plain", low=0)


@dataclass(frozen=True)
class GenerateConfig:
    """What is generated by a run's server and its clients together, with `task=generate`."""

    client: int = setting(-1, "the client that gets images; -1: all", low=-1, when=_GENERATE)
    num_images: int = setting(64, "images of each client; 0: only those that clients request", low=0, when=_GENERATE)
    label: int = setting(-1, "one class, or -1 for all", low=-1, when=_GENERATE)
    guidance: float = setting(-1.0, "weight of the condition; below 0: the run's own", low=-1, when=_GENERATE)
    seed: int = setting(0, "seeds what is generated", low=0, when=_GENERATE)
    max_per_client: int = setting(
        10_000, "most images that the backbone begins for a client, ever; 0: no limit", low=0, when=_GENERATE
    )
