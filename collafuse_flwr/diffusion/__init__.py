"""The split diffusion process in pure tensors: schedules, the cut, losses, training and sampling."""

from collafuse_flwr.diffusion.cut import cut_step, diffuse, diffuse_twice
from collafuse_flwr.diffusion.guidance import drop, guided
from collafuse_flwr.diffusion.loss import Objective, denoising_loss, official_loss, stratified_steps
from collafuse_flwr.diffusion.prediction import DROPPED, Denoise, Prediction, to_image, to_noise
from collafuse_flwr.diffusion.private import DPSGD, sampling_rate, train_privately
from collafuse_flwr.diffusion.sampling import Sampler, reverse, time_grid
from collafuse_flwr.diffusion.schedule import SCHEDULES, Schedule, cosine, linear, make_schedule, sigmoid
from collafuse_flwr.diffusion.training import Progress, Range, Source, TrainState, cosine_rate, mirror, some, train

__all__ = [
    "DPSGD",
    "DROPPED",
    "SCHEDULES",
    "Denoise",
    "Objective",
    "Prediction",
    "Progress",
    "Range",
    "Sampler",
    "Schedule",
    "Source",
    "TrainState",
    "cosine",
    "cosine_rate",
    "cut_step",
    "denoising_loss",
    "diffuse",
    "diffuse_twice",
    "drop",
    "guided",
    "linear",
    "make_schedule",
    "mirror",
    "official_loss",
    "reverse",
    "sampling_rate",
    "sigmoid",
    "some",
    "stratified_steps",
    "time_grid",
    "to_image",
    "to_noise",
    "train",
    "train_privately",
]
