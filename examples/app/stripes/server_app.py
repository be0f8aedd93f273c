"""A ServerApp of one's own: CollaFuse as any strategy of Flower, with a measure of one's own after each round."""

from __future__ import annotations

from collections.abc import Callable

import torch
from flwr.app import ArrayRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp

from collafuse_flwr.config.config import Config
from collafuse_flwr.core.progress import Progress
from collafuse_flwr.data.images import normalize
from collafuse_flwr.diffusion.forward import add_noise
from collafuse_flwr.diffusion.parametrization import to_image
from collafuse_flwr.runs.run_dir import held_run
from collafuse_flwr.runs.run_layout import RunLayout
from collafuse_flwr.runs.summary import summarize_run
from collafuse_flwr.setup.diffusion import diffusion_setup
from strategies import make_strategy

from .task import CLASSES, COUNT, SIDE, draw

app = ServerApp()
#: Images that no client has.
PUBLIC = 64


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Train, measure what came of it, and say where it is."""
    config = Config.from_flat(context.run_config)
    folder = RunLayout.of(config, context.run_id).folder
    with held_run(config, folder), Progress(config.run.quiet) as progress:
        strategy = make_strategy(config, folder, progress, in_process)
        arrays = strategy.connect(grid)
        result = strategy.start(grid, arrays, strategy.rounds_left, evaluate_fn=backbone_error(config))
        strategy.save()
        summary = summarize_run(folder)
    for round_, measured in result.evaluate_metrics_serverapp.items():
        print(f"round {round_}: the backbone is off by {measured['backbone-error']:.3f}")
    print(f"FD {summary['pooled']['fd']:.1f}, SNR at the cut {summary['pooled']['snr_db']:.1f} dB: {folder}")


def backbone_error(config: Config) -> Callable[[int, ArrayRecord], MetricRecord]:
    """E (x_0 - x_0_hat(x_t, t))^2 of the backbone, on images of the server's own and t halfway up its part."""
    setup = diffusion_setup(config)
    network, last = setup.backbone(1, SIDE, len(CLASSES)), setup.schedule.timesteps
    indices = torch.arange(COUNT, COUNT + PUBLIC)
    images, labels = normalize(draw(indices)), indices % len(CLASSES)
    t = torch.full((PUBLIC,), round(last * (1 + config.cut.cut_ratio) / 2))
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    x_t = add_noise(setup.schedule, images, torch.zeros_like(t), t, noise)

    def measure(_: int, arrays: ArrayRecord) -> MetricRecord:
        network.load_state_dict(arrays.to_torch_state_dict())
        with torch.no_grad():
            output = setup.denoise(network.eval())(x_t, t, labels)
        estimate = to_image(setup.schedule, setup.objective.prediction, output, x_t, t)
        return MetricRecord({"backbone-error": (estimate - images).square().mean().item()})

    return measure


def in_process(_: int) -> None:
    """Where strategies that send no messages find a client; CollaFuse sends messages."""
