"""Every strategy, declared once: what it is like, which settings it reads, and the classes of its two sides.

Another package adds one by an object of this kind of its own, which `strategy=package.module:SPEC` names.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from collafuse_flwr.core.plugins import load_instance

#: Groups that every run reads.
COMMON = frozenset({"run", "federation", "resources", "data", "evaluation"})
DIFFUSION = COMMON | {"generate", "diffusion", "train", "dp", "devices.profiles"}
#: CollaFuse, also at an end, where what it reads of the other side's settings has no effect.
AT_A_CUT = DIFFUSION | {"upload", "client", "server", "sampling", "devices.message_seconds"}
WHOLE_CHAINS = DIFFUSION | {"averaging", *(f"client.{name}" for name in ("model", "trained_parts", "batch_size"))}
WHOLE_CHAINS |= {f"sampling.{name}" for name in ("sampler", "steps", "client_steps", "guidance_scale")}
WHOLE_GANS = COMMON | {"train.local_epochs", "model"}
WHOLE_GANS |= {f"gan.{name}" for name in ("width", "depth", "batch_size", "learning_rate", "sample_labels")}
SPLIT_GANS = COMMON | {"train.local_epochs", "model", "gan"}
#: Settings of CollaFuse that strategies without a cut read, to be given as much as it uses, by `train.match`.
MATCHED = {
    "client_flops": ("cut_ratio",),
    "traffic": ("cut_ratio", "upload.dtype", "upload.draws_per_image", "upload.share_labels", "client.init_from"),
}


@dataclass(frozen=True)
class StrategySpec:
    """A strategy.

    Attributes:
        name: its value of `strategy`.
        about: one line.
        server: package.module:Class, a Flower strategy (see `strategies.base.BaseStrategy`).
        client: package.module:Class (see `collafuse_flwr.client.base`).
        reads: groups of settings that it reads, or single ones by their public name; others must be at their default.
        is_gan: whether it trains GANs, which have no diffusion process and no cut in it.
        sends: what a client uploads, beside numbers; gradients are those at a server's samples.
        fixed_cut: the cut ratio of all clients, where the settings do not say it.
        clean_server: whether the server sees clean images: a yardstick, not a protection.
        shared_parts: parts of the denoiser (see `diffusion.partial_sharing`) that clients upload by turns.
        default_clip: norm to which images are clipped where `upload.clip_norm` is 0, in multiples of sqrt(values).
    """

    name: str
    about: str
    server: str
    client: str
    reads: frozenset[str]
    is_gan: bool = False
    sends: tuple[Literal["images", "weights", "activations", "gradients"], ...] = ()
    fixed_cut: float | None = None
    clean_server: bool = False
    shared_parts: tuple[str, ...] = ()
    default_clip: float = 1.0

    @property
    def averages_denoisers(self) -> bool:
        """Whether the backbone is the average of the clients' denoisers, each of the whole chain."""
        return bool(self.shared_parts) and self.fixed_cut == 1.0

    def can_match(self, what: str) -> bool:
        """Whether it can be given as much of something as CollaFuse uses, without a cut of its own."""
        return self.averages_denoisers or (what == "client_flops" and not self.is_gan and self.fixed_cut is not None)

    def reads_setting(self, group: str, public_name: str) -> bool:
        """Whether it reads a setting of a group; GANs know no latents."""
        if public_name == "codec" and self.is_gan:
            return False
        return group in self.reads or public_name in self.reads


def _collafuse(name: str, about: str, **traits: Any) -> StrategySpec:
    """CollaFuse, or what differs from it by a trait; `server` and `client` name a module or a class of another."""
    server = traits.pop("server", COLLAFUSE_SERVER)
    client = traits.pop("client", "collafuse_flwr.client.collafuse:CollaFuseClient")
    every: dict[str, Any] = {"reads": AT_A_CUT | {"cut", "public", "deconvolution"}, "sends": ("images",)}
    return StrategySpec(name, about, server, client, **every | traits)


def _fedavg(name: str, about: str, *parts: str, also: frozenset[str] = frozenset()) -> StrategySpec:
    """A whole denoiser in every client, averaged over the clients, all or in part."""
    return StrategySpec(
        name,
        about,
        "strategies.fedavg:PartialFedAvg",
        "collafuse_flwr.client.fedavg:FedAvgClient",
        WHOLE_CHAINS | also,
        sends=("weights",),
        fixed_cut=1.0,
        shared_parts=parts,
    )


def _gan(
    name: str,
    about: str,
    server: str,
    client: str,
    reads: frozenset[str],
    sends: tuple[Literal["weights", "activations", "gradients"], ...],
) -> StrategySpec:
    """A GAN, which has no chain to cut."""
    return StrategySpec(name, about, server, client, reads, is_gan=True, sends=sends, fixed_cut=1.0)


#: The server side that CollaFuse's variants have in common.
COLLAFUSE_SERVER = "strategies.collafuse:CollaFuse"
_LATENT_AND_DECODER = "bottleneck+decoder"
_SPECS = (
    _collafuse("collafuse", "split diffusion (arXiv 2402.19105, 2406.14429)"),
    _collafuse(
        "pfdm",
        "CollaFuse with images clipped to a norm before they are noised (arXiv 2504.00952)",
        # That of an image at three quarters of full contrast.
        default_clip=0.75,
    ),
    _collafuse(
        "hybrid",
        "CollaFuse whose clients' denoisers are averaged over the clients as well",
        reads=AT_A_CUT | {"averaging", "cut", "public", "deconvolution"},
        server="strategies.hybrid:Hybrid",
        client="collafuse_flwr.client.hybrid:HybridClient",
        sends=("images", "weights"),
        shared_parts=("all",),
    ),
    _collafuse(
        "clean_server",
        "a yardstick: CollaFuse whose server trains on clean images above the cut; no privacy",
        server="strategies.clean_server:CleanServer",
        # It trains on no upload, of which some could be held out.
        reads=AT_A_CUT - {"server"} | {"server.batch_size", "server.update_multiplier", "cut_ratio"},
        clean_server=True,
    ),
    _collafuse("local", "every client trains alone: CollaFuse at c = 1", reads=AT_A_CUT, fixed_cut=1.0, sends=()),
    _collafuse(
        "centralized",
        "all clean images on the server: CollaFuse at c = 0; no privacy",
        reads=AT_A_CUT | {"public"},
        fixed_cut=0.0,
        clean_server=True,
    ),
    _fedavg("fedavg", "a whole denoiser in every client, averaged (arXiv 1602.05629)", "all"),
    _fedavg(
        "fedprox",
        "FedAvg with a pull towards the global weights (arXiv 1812.06127)",
        "all",
        also=frozenset({"fedprox"}),
    ),
    _fedavg("usplit", "FedAvg of one half of the U-Net by turns (arXiv 2406.12575)", "encoder", _LATENT_AND_DECODER),
    _fedavg("ulatdec", "FedAvg of the U-Net's bottleneck and decoder (arXiv 2406.12575)", _LATENT_AND_DECODER),
    _fedavg("udec", "FedAvg of the U-Net's decoder (arXiv 2406.12575)", "decoder"),
    _gan(
        "huscf_gan",
        "a GAN that is split U-shaped, with clustered, KLD-weighted averages (arXiv 2507.12979)",
        "strategies.huscf_gan:HuscfGan",
        "collafuse_flwr.client.huscf_gan:HuscfGanClient",
        SPLIT_GANS | {"split_gan", "clustering", "devices", "cut_planner"},
        sends=("activations", "weights"),
    ),
    _gan(
        "fedgan",
        "a whole GAN in every client, averaged (arXiv 2006.07228)",
        "strategies.fedgan:FedGan",
        "collafuse_flwr.client.fedgan:FedGanClient",
        WHOLE_GANS,
        sends=("weights",),
    ),
    _gan(
        "mdgan",
        "one generator on the server, a discriminator in every client (arXiv 1811.03850)",
        "strategies.mdgan:MdGan",
        "collafuse_flwr.client.mdgan:MdGanClient",
        SPLIT_GANS | {"mdgan", "split_gan.init"},
        sends=("weights", "gradients"),
    ),
    _gan(
        "fsl_gan",
        "one generator on the server, the clients' discriminators averaged (arXiv 2207.01750)",
        "strategies.fsl_gan:FslGan",
        "collafuse_flwr.client.mdgan:MdGanClient",
        SPLIT_GANS | {"split_gan.init"},
        sends=("weights", "gradients"),
    ),
    _gan(
        "pfl_gan",
        "a GAN of every client's own, which learns from synthetic images of similar clients too (arXiv 2308.12454)",
        "strategies.pfl_gan:PflGan",
        "collafuse_flwr.client.pfl_gan:PflGanClient",
        WHOLE_GANS | {"pfl_gan"},
        sends=("weights",),
    ),
    _gan(
        "hfl_gan",
        "a whole GAN in every client, averaged at edge servers and in a cloud (doi 10.1007/s10489-024-05924-x)",
        "strategies.hfl_gan:HflGan",
        "collafuse_flwr.client.fedgan:FedGanClient",
        WHOLE_GANS | {"hfl_gan"},
        sends=("weights",),
    ),
)
#: CollaFuse's two ends: name -> cut ratio.
ENDS = {spec.name: spec.fixed_cut for spec in _SPECS if spec.server == COLLAFUSE_SERVER and spec.fixed_cut is not None}
#: The strategies of this package, by name.
STRATEGIES = {spec.name: spec for spec in _SPECS}


def strategy_spec(name: str) -> StrategySpec:
    """The strategy of this name, or the one at package.module:SPEC.

    Raises:
        SettingError: there is none.
    """
    if name in STRATEGIES:
        return STRATEGIES[name]
    return load_instance("strategy", name, StrategySpec)
