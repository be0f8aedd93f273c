"""Settings of the GANs: networks, their split, clusters, and the devices that the split is planned for."""

from __future__ import annotations

from dataclasses import dataclass

from collafuse_flwr.core.fields import Texts, setting


@dataclass(frozen=True)
class GanConfig:
    """The networks of a GAN, unless `model` is package.module:factory, and their training."""

    width: int = setting(64, "feature maps of the widest images; others have up to four times as many", low=1)
    depth: int = setting(1, "blocks of equal resolution in the middle of generator and discriminator", low=1)
    batch_size: int = setting(64, "images in a batch of a client", low=2)
    learning_rate: float = setting(2e-4, "Adam's step size; its betas are 0.5 and 0.999", above=0)
    sample_labels: str = setting("own", "classes of the samples", choices=("own", "uniform"))
    transport: str = setting(
        "messages",
        "how a batch's parts meet: by messages, or in one process (simulation)",
        choices=("messages", "in_process"),
    )
    wire_dtype: str = setting(
        "float32",
        "precision of activations and gradients in messages",
        choices=("float32", "float16", "bfloat16"),
    )


@dataclass(frozen=True)
class SplitGanConfig:
    """How HuSCF-GAN's networks are split between clients and server, conditioned and trained."""

    client_cuts: Texts = setting(
        (), "extra blocks in the heads and tails of G and D, as 0010, for all clients or for each: [0010,1111]"
    )
    min_cut: str = setting("0000", "extra blocks that every client keeps at least, as 0010")
    replan_rounds: int = setting(
        0, "rounds after which cuts are planned anew, from how long clients took; 0: they stay", low=0
    )
    factor_tail_gradients: bool = setting(
        False, "clients with the least tail send a factor of its gradient and its weights"
    )
    activation_noise: float = setting(
        0.0, "standard deviation of noise on activations of images, which are then bounded to norm sqrt(values)", low=0
    )
    init: str = setting("independent", "weights that clients begin with", choices=("independent", "common"))
    average_server_blocks: bool = setting(True, "the server's blocks are averaged with clients' own")
    loss: str = setting("bce", "what G and D descend: cross-entropies, or hinges", choices=("bce", "hinge"))
    spectral_norm: bool = setting(
        False, "the discriminator's weights are divided by their spectral norm, instead of batch normalisation"
    )
    augmentation: str = setting(
        "none",
        "differentiable augmentation of what the discriminator sees (DiffAugment)",
        choices=("none", "translation", "translation+cutout", "color+translation+cutout"),
    )
    ema: float = setting(
        0.0, "decay, per batch, of the average of G's weights that makes samples; 0: none", low=0, high=0.9999
    )
    reset_moments: bool = setting(False, "Adam's moments are forgotten where weights have been averaged")
    fake_labels: str = setting(
        "batch",
        "labels of fake images: those of the batch's real images, or drawn apart from all of the client's",
        choices=("batch", "drawn"),
    )
    condition_at: str = setting(
        "head", "where the discriminator takes labels: in the client's head, or in its tail", choices=("head", "tail")
    )


@dataclass(frozen=True)
class ClusteringConfig:
    """How HuSCF-GAN clusters and weights its clients."""

    warmup_rounds: int = setting(2, "first rounds in which all clients are one cluster, weighted by size", low=0)
    num_clusters: int = setting(0, "clusters of clients; 0: found by their silhouette", low=0)
    feature: str = setting(
        "mean", "what clients are clustered by: their activations' means, or moments", choices=("mean", "moments")
    )
    num_batches: int = setting(4, "last batches of a round that clusters are found from", low=1)
    kld_beta: float = setting(-1.0, "weight of a client's divergence from the others; -1: calibrated", low=-1)
    kld_direction: str = setting(
        "q_p", "divergence of the others from a client (q_p, as published), or the reverse", choices=("q_p", "p_q")
    )


@dataclass(frozen=True)
class MdGanConfig:
    """MD-GAN (arXiv 1811.03850)."""

    k: int = setting(1, "batches that the server makes in an iteration for all", low=1)
    local_steps: int = setting(1, "L, the steps of the discriminators in an iteration", low=1)


@dataclass(frozen=True)
class PflGanConfig:
    """PFL-GAN (arXiv 2308.12454)."""

    warmup_rounds: int = setting(
        -1, "first rounds, in which clients train alone and send their generators; -1: half of all", low=-1
    )
    num_synthetic: int = setting(
        2000, "synthetic images of others that a client is sent at most in a round", low=1, high=100_000
    )


@dataclass(frozen=True)
class HflGanConfig:
    """HFL-GAN (doi 10.1007/s10489-024-05924-x)."""

    num_edges: int = setting(2, "edge servers, each with a generator; fewer where fewer clients take part", low=1)
    cloud_every: int = setting(2, "rounds from one mean of the edges' discriminators to the next; 0: none", low=0)


@dataclass(frozen=True)
class DevicesConfig:
    """What the clients run on."""

    profiles: Texts = setting(
        (), "the clients' devices: paper7 in turn, or each client's as [1,2,48:150] (name or GFLOP/s:MB/s[:MB])"
    )
    client_memory_mb: float = setting(0.0, "MB for networks on devices that do not say theirs; 0: no limit", low=0)
    server_gflops: float = setting(672.0, "GFLOP/s of the server", above=0)
    server_mb_per_s: float = setting(1000.0, "MB/s of the server's link", above=0)
    message_seconds: float = setting(0.0, "seconds that every message takes beside its bytes", low=0)
    slowdowns: Texts = setting(
        (), "devices of a simulation that slow down, as client:times:round: [0:8:3] takes 8 times as long from round 3"
    )
    latency_model: str = setting(
        "corrected", "how an iteration is modelled; paper: with the faults", choices=("corrected", "paper")
    )


@dataclass(frozen=True)
class CutPlannerConfig:
    """What finds the cuts of a GAN for the clients' devices."""

    algorithm: str = setting("exact", "what finds the cuts of a GAN", choices=("exact", "genetic"))
    population: int = setting(
        200, "individuals of the genetic planner", low=2, when=({"cut_planner.algorithm": "genetic"},)
    )
    generations: int = setting(
        100, "generations of the genetic planner", low=1, when=({"cut_planner.algorithm": "genetic"},)
    )
