"""The split diffusion process in pure tensors: schedules, the cut, losses, training and sampling."""
