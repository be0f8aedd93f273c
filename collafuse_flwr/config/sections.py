"""Every setting and its default, by section."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from collafuse_flwr.core.fields import setting

#: CollaFuse, and what differs from it by little: clipped uploads, clients' denoisers that are averaged too, or a server
#: that sees clean images (a yardstick for simulations).
SPLIT = ("collafuse", "pfdm", "hybrid", "oracle")
#: Those whose clients may differ in their cuts.
MIXED = ("collafuse", "pfdm", "hybrid")
#: Ways to deal images by their classes alone.
PARTITIONS = ("iid", "dirichlet", "by_class", "drop_classes")
#: What a cut may be chosen by instead of its ratio, and the range of each.
TARGETS = {
    "cut_snr_db": (-math.inf, math.inf),
    "cut_bits": (0.0, math.inf),
    "cut_epsilon": (0.0, math.inf),
    "cut_reid": (0.0, 1.0),
    "cut_seconds": (0.0, math.inf),
}
#: Presets of networks, from the smallest.
MODELS = ("nano", "tiny", "small", "base", "paper")
#: Data sets, by what they are on disk: nothing, our own forms, idx files, and what others publish.
DATASETS = (
    *("digits", "imagefolder", "npz"),
    *("mnist", "fashion_mnist", "kmnist", "notmnist"),
    *("cifar10", "celeba", "awa2", "brats2020", "medmnist"),
)
#: CollaFuse's two ends: everything in the clients (c = 1), or clean images on the server (c = 0).
ENDS = {"local": 1.0, "centralised": 0.0}
#: Those whose server holds clean images: what clients train is beside the point.
CLEAN = ("oracle", "centralised")
#: Whole chains in the clients, whose weights are averaged, all or in part.
FEDERATED = ("fedavg", "fedprox", "usplit", "ulatdec", "udec")
#: GANs, which have no diffusion process and so no cut in it.
GANS = ("huscf_gan", "fedgan", "mdgan")


@dataclass(frozen=True)
class RunConfig:
    """What is run, where it goes and how it is started."""

    strategy: str = setting("collafuse", "the algorithm", choices=(*SPLIT, *ENDS, *FEDERATED, *GANS))
    seed: int = setting(0, "seeds every random stream of the run", low=0)
    num_rounds: int = setting(10, "rounds of the federation", low=1)
    num_supernodes: int = setting(10, "clients (SuperNodes)", low=1)
    runner: str = setting("ray", "what runs the clients", choices=("ray", "local", "flwr"))
    output: str = setting("", "the run's folder; empty: a new one below runs/")
    resume: bool = setting(False, "continue the run in `output`")
    attack: bool = setting(False, "attack the run at its end, as simulations.attack does any finished run")
    quiet: bool = setting(False, "plain log lines instead of a progress bar")
    device: str = setting("auto", "where networks run", choices=("auto", "cpu", "cuda", "mps"))
    precision: str = setting("auto", "arithmetic of the networks", choices=("auto", "float32", "bfloat16"))


@dataclass(frozen=True)
class FederationConfig:
    """Who takes part, and what a client may use of the machine."""

    fraction_train: float = setting(1.0, "share of the clients asked in each round", above=0, high=1)
    min_supernodes: int = setting(0, "clients to wait for before the first round; 0: all", low=0)
    round_timeout: float = setting(
        3600.0,
        "seconds to wait for clients, whenever they are asked",
        above=0,
    )
    proximal_mu: float = setting(0.01, "FedProx's pull towards the global weights", low=0)
    client_num_cpus: float = setting(1.0, "CPUs per client in Ray", above=0)
    client_num_gpus: float = setting(0.0, "GPUs per client in Ray; fractions share a card", low=0)
    client_threads: int = setting(1, "torch threads of a client", low=1)
    server_threads: int = setting(0, "torch threads of the server; 0: all cores", low=0)


@dataclass(frozen=True)
class DataConfig:
    """Which images there are and who holds them."""

    dataset: str = setting("digits", "the images; several sets as a+b", choices=DATASETS, joined=True)
    dataset_path: str = setting("", "folder or file of the data set, or of several as a;b; digits needs none")
    class_attribute: str = setting("", "attribute that gives the classes of celeba; empty: one class")
    image_size: int = setting(0, "images are resized to this many pixels a side; 0: their own size", low=0)
    max_images: int = setting(0, "use only this many images, drawn by seed; 0: all", low=0)
    max_client_images: int = setting(0, "use only this many images of each client; 0: all", low=0)
    cache_path: str = setting("", "folder for decoded images; empty: collafuse_flwr in the user's cache")
    partition: str = setting(
        "dirichlet",
        "how images are dealt",
        choices=(*PARTITIONS, "by_identity", "by_patient", "by_attribute", "by_domain"),
    )
    dirichlet_alpha: float = setting(0.3, "concentration of the Dirichlet partition", above=0)
    classes_per_client: int = setting(2, "classes that a client of `by_class` holds", low=1)
    dropped_classes: str = setting(
        "0:0.33,2:0.40,3:0.13,4:0.13",
        "for drop_classes, how many classes which share of the clients lacks: 'classes:share,...'",
    )
    size_shares: str = setting(
        "1:1",
        "for drop_classes, which part of a client's images (`max_client_images`, or an equal share) which share of the "
        "clients has: 'part:share,...'",
    )
    joined_classes: str = setting(
        "name", "classes of several sets are the same if they share this", choices=("name", "number")
    )
    attribute_groups: str = setting("", "for by_attribute, the attributes of each client: 'a,b;c;...'")
    overlap: bool = setting(False, "an image of by_attribute is with every client that it fits")
    within_domain: str = setting("iid", "how by_domain deals a data set among its clients", choices=PARTITIONS)
    held_out: float = setting(0.2, "share of each client's images that is never trained on", above=0, high=0.9)


@dataclass(frozen=True)
class ModelConfig:
    """The networks and the diffusion process that both sides share."""

    model: str = setting("tiny", "preset of the backbone", choices=MODELS, or_path=True)
    client_model: str = setting("same", "preset of the clients' denoisers", choices=("same", *MODELS), or_path=True)
    condition: str = setting(
        "classes", "what the networks are told of an image", choices=("classes", "attributes", "none")
    )
    timesteps: int = setting(100, "T, the steps of the diffusion process", low=2, high=10000)
    schedule: str = setting("cosine", "the noise schedule", choices=("cosine", "linear", "sigmoid"))
    prediction: str = setting("v", "what the networks predict", choices=("eps", "v"))


@dataclass(frozen=True)
class SplitConfig:
    """Where the diffusion process is cut and what crosses the cut."""

    cut_ratio: float = setting(0.2, "c, the clients' share of the T steps", low=0, high=1)
    client_cut_ratios: str = setting("", "one cut ratio per client, as '0.1,0.2,...'; empty: `cut_ratio` for all")
    cut_snr_db: str = setting("", "the cut is where an upload's SNR is at most this, in dB; empty: `cut_ratio`")
    cut_bits: str = setting("", "the cut is where uploads tell at most so many bits about an image")
    cut_epsilon: str = setting("", "the cut is where uploads of an image are (this, `dp_delta`)-DP")
    cut_reid: str = setting("", "the cut is where at most this share of a client's images is re-identified")
    cut_seconds: str = setting("", "the cut is the last at which no round should take a client's device longer")
    clip_norm: float = setting(
        0.0, "L2 norm to which images are clipped before they are noised; 0: none, or pfdm's own", low=0
    )
    dp_delta: float = setting(1e-5, "delta at which epsilon is reported", above=0, high=0.5)
    upload: str = setting("once", "how often an image's noise is drawn", choices=("once", "fresh", "official"))
    copies_per_image: int = setting(1, "noised copies of each image that are released", low=1)
    max_releases: int = setting(0, "noised copies of an image that may ever leave a client; 0: no limit", low=0)
    upload_dtype: str = setting("int8", "precision of uploads", choices=("int8", "float16", "float32"))
    share_labels: bool = setting(True, "what networks are told (`condition`) travels with the uploads")
    effort: str = setting("proportional", "image updates of a client", choices=("proportional", "full"))
    client_init: str = setting("backbone", "start of a client's denoiser", choices=("random", "backbone"))
    client_init_round: int = setting(0, "round in which clients take the backbone; 0: chosen", low=0)


@dataclass(frozen=True)
class TrainConfig:
    """How both sides are optimised."""

    budget: str = setting(
        "image_updates", "what strategies have in common", choices=("image_updates", "client_flops", "traffic")
    )
    server_effort: float = setting(1.0, "the backbone's image updates, in multiples of its share", above=0)
    local_epochs: float = setting(10.0, "passes over the images that a full DDPM would make in a round", above=0)
    batch_size: int = setting(128, "images in a batch of the server", low=1)
    client_batch_size: int = setting(8, "images in a batch of a client", low=1)
    learning_rate: float = setting(2e-3, "Adam's step size", above=0)
    lr_schedule: str = setting("cosine", "learning rate over the rounds", choices=("constant", "cosine"))
    ema_decay: float = setting(0.999, "decay of the averaged weights that sample", low=0, high=1)
    loss_weighting: str = setting("uniform", "weight of a step in the loss", choices=("uniform", "min_snr"))
    min_snr_gamma: float = setting(5.0, "gamma of min-SNR weighting", above=0)
    label_dropout: float = setting(
        0.0, "share of training images whose condition is dropped, for `guidance`", low=0, high=1
    )
    flip: bool = setting(False, "mirror training images left to right at random, on both sides")
    dp_noise_multiplier: float = setting(
        0.0, "DP-SGD of the clients' denoisers: its noise, in multiples of `dp_max_grad_norm`; 0: none", low=0
    )
    dp_max_grad_norm: float = setting(1.0, "L2 norm to which DP-SGD clips the gradient of an image", above=0)


@dataclass(frozen=True)
class GanConfig:
    """The GANs: their networks, how they are split and federated."""

    gan_width: int = setting(64, "feature maps of a GAN's widest images; others have up to four times as many", low=1)
    gan_depth: int = setting(1, "blocks of equal resolution in the middle of generator and discriminator", low=1)
    gan_batch_size: int = setting(64, "images in a batch of a GAN's client", low=2)
    gan_learning_rate: float = setting(2e-4, "Adam's step size in GANs; its betas are 0.5 and 0.999", above=0)
    gan_labels: str = setting("own", "classes of a GAN's samples", choices=("own", "uniform"))
    client_cuts: str = setting(
        "", "extra blocks in the heads and tails of G and D, as 0010, for all clients or for each: '0010,1111,...'"
    )
    min_d_head: int = setting(0, "extra blocks that a client at least keeps in the discriminator's head", low=0)
    engine: str = setting(
        "messages",
        "how a GAN's halves meet: by messages, or in one process (simulation)",
        choices=("messages", "fused"),
    )
    wire_dtype: str = setting(
        "float32", "precision of activations and gradients at the cuts", choices=("float32", "float16", "bfloat16")
    )
    factored_tails: bool = setting(False, "clients with the least tail send a factor of its gradient and its weights")
    activation_noise: float = setting(0.0, "standard deviation of noise on what is sent of real images", low=0)
    generated_batches: int = setting(1, "k, the batches that MD-GAN's server makes in an iteration for all", low=1)
    discriminator_steps: int = setting(1, "L, the steps of MD-GAN's discriminators in an iteration", low=1)
    gan_init: str = setting("independent", "weights that clients begin with", choices=("independent", "common"))
    warmup_rounds: int = setting(2, "first rounds in which all clients are one cluster, weighted by size", low=0)
    num_clusters: int = setting(0, "clusters of clients; 0: found by their silhouette", low=0)
    cluster_feature: str = setting("flat", "what clients are clustered by", choices=("flat", "stats"))
    cluster_batches: int = setting(4, "last batches of a round that clusters are found from", low=1)
    kld_beta: float = setting(-1.0, "weight of a client's divergence from the others; -1: calibrated", low=-1)
    kld_direction: str = setting(
        "q_p", "divergence of the others from a client (q_p, as published), or the reverse", choices=("q_p", "p_q")
    )
    server_aggregation: str = setting(
        "global", "the server's blocks: averaged with clients' own, or kept", choices=("global", "keep")
    )


@dataclass(frozen=True)
class DeviceConfig:
    """What the clients run on, and how cuts of GANs are planned for it."""

    devices: str = setting(
        "", "the clients' devices: paper7 in turn, or each client's as '1,2,48:150,...' (its name or GFLOP/s:MB/s[:MB])"
    )
    client_memory: float = setting(0.0, "MB for networks on devices that do not tell theirs; 0: no limit", low=0)
    server_gflops: float = setting(672.0, "GFLOP/s of the server", above=0)
    server_link: float = setting(1000.0, "MB/s of the server's link", above=0)
    message_latency: float = setting(0.0, "seconds that every message takes beside its bytes", low=0)
    latency_model: str = setting(
        "corrected", "how an iteration is modelled; paper: with the faults", choices=("corrected", "paper")
    )
    planner: str = setting("exact", "what finds the cuts of a GAN", choices=("exact", "genetic"))
    genetic_population: int = setting(200, "individuals of the genetic planner", low=2)
    genetic_generations: int = setting(100, "generations of the genetic planner", low=1)
    min_g_head: int = setting(0, "extra blocks that a client at least keeps in the generator's head", low=0)
    min_g_tail: int = setting(0, "extra blocks that a client at least keeps in the generator's tail", low=0)
    min_d_tail: int = setting(0, "extra blocks that a client at least keeps in the discriminator's tail", low=0)


@dataclass(frozen=True)
class EvaluationConfig:
    """What is sampled and measured."""

    evaluate_every: int = setting(0, "rounds between evaluations; 0: only after the last", low=0)
    num_samples: int = setting(2000, "images generated in an evaluation, over all clients", low=2)
    tstr: str = setting("clients", "whose samples train a classifier", choices=("clients", "pooled", "none"))
    inception_weights: str = setting("", "file with Inception's weights, for FID and KID; empty: not measured")
    clip_weights: str = setting("", "file with the weights of CLIP's ViT-B/32, for CLIP-FID; empty: not measured")
    sampler: str = setting("dpm++", "the sampler", choices=("ddpm", "ddim", "dpm++"))
    sampling_steps: int = setting(40, "sampling steps of the whole chain; 0: every step", low=0)
    server_steps: int = setting(0, "sampling steps above the cut; 0: its share of `sampling_steps`", low=0)
    client_steps: int = setting(0, "sampling steps below the cut; 0: its share of `sampling_steps`", low=0)
    guidance: float = setting(1.0, "weight of the condition in every network that is told it; 1: plain", low=0)


SECTIONS: dict[str, type[Any]] = {
    "run": RunConfig,
    "federation": FederationConfig,
    "data": DataConfig,
    "model": ModelConfig,
    "split": SplitConfig,
    "train": TrainConfig,
    "gan": GanConfig,
    "hardware": DeviceConfig,
    "evaluation": EvaluationConfig,
}
