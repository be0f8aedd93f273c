"""What leakage cards show: columns of their tables, and panels of their pictures."""

from __future__ import annotations

from dataclasses import dataclass

#: A column: the number, how it is written, and where its value without information is.
Column = tuple[str, str, str | None]
#: A panel: title, axis, series by name in the legend, and where the value without information is.
Panel = tuple[str, str, dict[str, str], str]
#: Columns of the table of what was received, and of what it discloses.
RECEIVED: dict[str, Column] = {
    "SNR dB": ("snr_db", ".1f", None),
    "bits": ("bits", ".1f", "bits_chance"),
    "I-MMSE": ("bits_denoised", ".1f", "bits_chance"),
    "eps": ("dp_epsilon", ".4g", "dp_epsilon_chance"),
    "sent": ("releases", "d", None),
    "re-id": ("reid", ".3f", "reid_chance"),
    "probe": ("probe_auc", ".2f", "probe_auc_chance"),
}
#: Columns of the table of reconstructions, by their PSNR.
REBUILT: dict[str, Column] = {
    "Wiener": ("psnr_wiener", ".1f", "psnr_chance"),
    "chain": ("psnr_backbone", ".1f", "psnr_chance"),
    "1 step": ("psnr_one_step", ".1f", "psnr_chance"),
    "shadow": ("psnr_shadow", ".1f", "psnr_chance"),
    "grad": ("psnr_gradient", ".1f", "psnr_chance"),
}
#: Columns of the table of networks and samples.
NETWORKS: dict[str, Column] = {
    **{
        f"{title} {attack}": (f"membership_{name}_{key}_auc", ".2f", f"membership_{name}_{key}_auc_chance")
        for title, name in (("server", "backbone"), ("client", "denoiser"))
        for attack, key in (("loss", "loss"), ("SimA", "sima"))
    },
    "error": ("membership_denoiser_loss_auc_error", ".2f", None),
    "repeats": ("memorisation", ".2f", "memorisation_chance"),
    "ratio": ("memorisation_ratio", ".2f", "memorisation_ratio_chance"),
}
#: Panels of the picture.
PANELS: tuple[Panel, ...] = (
    ("Image named among all", "rate", {"all releases": "reid", "one release": "reid_one"}, "reid_chance"),
    (
        "Reconstruction",
        "PSNR in dB",
        {
            "Wiener": "psnr_wiener",
            "backbone": "psnr_backbone",
            "backbone, 1 step": "psnr_one_step",
            "shadow": "psnr_shadow",
            "gradient": "psnr_gradient",
        },
        "psnr_chance",
    ),
    (
        "Reconstruction",
        "SSIM",
        {
            "Wiener": "ssim_wiener",
            "backbone": "ssim_backbone",
            "backbone, 1 step": "ssim_one_step",
            "shadow": "ssim_shadow",
            "gradient": "ssim_gradient",
        },
        "ssim_chance",
    ),
    ("Class or attribute inferred", "AUC", {"probe": "probe_auc"}, "probe_auc_chance"),
    (
        "Membership inference",
        "AUC",
        {
            "server, loss": "membership_backbone_loss_auc",
            "server, SimA": "membership_backbone_sima_auc",
            "client, loss": "membership_denoiser_loss_auc",
            "client, SimA": "membership_denoiser_sima_auc",
        },
        "",
    ),
    ("Memorized training images", "share", {"nearest is trained on": "memorisation"}, "memorisation_chance"),
)
#: Columns and panels of what a split discriminator's activations disclose.
INVERTED: dict[str, Column] = {
    "by": ("method", "s", None),
    "images": ("rows", "d", None),
    "labels": ("labels_split", ".3f", "labels_split_chance"),
    "G's labels": ("labels_codes", ".3f", "labels_split_chance"),
    "PSNR dB": ("psnr_split", ".1f", "psnr_chance"),
    "SSIM": ("ssim_split", ".3f", "ssim_chance"),
}
SPLIT_PANELS: tuple[Panel, ...] = (
    ("Label recovered", "share", {"from D's": "labels_split", "from G's": "labels_codes"}, "labels_split_chance"),
    ("Reconstruction", "PSNR in dB", {"from activations": "psnr_split"}, "psnr_chance"),
    ("Reconstruction", "SSIM", {"from activations": "ssim_split"}, "ssim_chance"),
)
#: Axes that are shares, from 0 to 1.
SHARES = ("rate", "SSIM", "AUC", "share")


@dataclass(frozen=True)
class AttackReportSpec:
    """A card: where a row has its cut, tables (title, columns, what they are) and panels, three side by side."""

    cut: str
    tables: tuple[tuple[str, dict[str, Column], str], ...]
    panels: tuple[Panel, ...]


#: Of diffusion models.
CARD = AttackReportSpec(
    "cut_step",
    (
        (
            "Attacks on what was received",
            RECEIVED,
            "bits: upper bound on what is disclosed about an image, by the covariance; I-MMSE: by the backbone's "
            "errors too, beside the label where that travels; sent: releases of each image; re-id: rate of images "
            "that are re-identified among all training images; probe: AUC of class or attributes.",
        ),
        (
            "Reconstructions (PSNR in dB)",
            REBUILT,
            "By a Wiener filter, by the backbone (chain: continued below the cut; 1 step: its estimate), by a shadow "
            "denoiser and from a gradient (where weights are sent).",
        ),
        (
            "Attacks on networks and samples",
            NETWORKS,
            "AUC of membership in the training of the server's and of the client's network, by loss and by SimA, with "
            "its error; repeats: samples whose nearest image was trained on; ratio: distance to such over that to "
            "others.",
        ),
    ),
    PANELS,
)
#: Of the split GAN.
SPLIT_CARD = AttackReportSpec(
    "client_cuts",
    (
        (
            "Recovered from activations",
            INVERTED,
            "Of the first batch of real images after the last average. by: closed form (the client keeps one block) or "
            "search; labels: share that is right; G's: from the generator's activations, closed form; guess: any "
            "label, and the mean of the held-out images.",
        ),
    ),
    SPLIT_PANELS,
)
