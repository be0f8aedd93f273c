"""A server that denoises its uploads, to learn the steps below the cuts from them as well."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Context, Message

from collafuse_flwr.diffusion import train as training
from collafuse_flwr.diffusion.train import TimestepRange
from collafuse_flwr.runs.run_layout import RunLayout
from collafuse_flwr.runs.upload_buffer import UploadBuffer
from strategies.server_model import Backbone
from tests.small_runs import bytes_of, connect, federate, metrics, small, spoiled

#: Of four rounds the second last and the last denoise the uploads.
DENOISED: dict[str, Any] = {"num_rounds": 4, "deconvolution.iterations": 2, "deconvolution.sampling_steps": 3}
PUBLIC: dict[str, Any] = {"public.dataset": "digits", "public.max_images": 20}


def test_each_row_is_trained_on_its_own_side_of_the_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Uploads above it, what came of them up to it, and public images everywhere."""
    steps: dict[tuple[int, int], set[int]] = {}

    def noted(source: Any, rows: Any, steps_range: TimestepRange, generator: Any, **settings: Any) -> Any:
        drawn = plain(source, rows, steps_range, generator, **settings)
        if steps_range.lasts is not None:
            kinds = zip(drawn[1].tolist(), steps_range.lasts[rows].tolist(), drawn[2].tolist(), strict=True)
            for start, last, t in kinds:
                steps.setdefault((start, last), set()).add(t)
        return drawn

    plain = training.draw_batch
    monkeypatch.setattr(training, "draw_batch", noted)
    strategy = federate(small(tmp_path, **DENOISED | PUBLIC, train__local_epochs=8.0))
    assert strategy.public is not None
    assert steps == {(6, 20): set(range(7, 21)), (0, 6): set(range(1, 7)), (0, 20): set(range(1, 21))}


def test_every_step_is_trained_as_often_as_in_a_ddpm(tmp_path: Path) -> None:
    """Of a pass over the rows: an upload has 7 tenths of the chain, what came of it 3, and a public image all ten."""
    strategy = federate(small(tmp_path, **DENOISED | PUBLIC))
    assert strategy.deconvolution is not None
    sizes: dict[int, float] = dict(strategy.pool.sizes())
    source, lasts = strategy.deconvolution.source(strategy.pool, strategy.public, sizes)
    uploads, counted = len(strategy.pool), torch.stack([source.cuts, lasts]).unique(dim=1, return_counts=True)
    assert counted[0].T.tolist() == [[0, 6], [0, 20], [6, 20]]
    assert counted[1].tolist() == [3 * uploads, 10 * 20, 7 * uploads]
    x, start, labels = source.batch(torch.arange(len(source)))
    assert torch.equal(start, source.cuts)
    assert x.isfinite().all()
    # An image has the label of its upload.
    assert labels is not None
    of_uploads, of_images = labels[: 7 * uploads : 7], labels[7 * uploads : 10 * uploads : 3]
    assert torch.equal(of_uploads, of_images)
    images = x[7 * uploads : 10 * uploads : 3]
    assert images.abs().max() <= 1
    assert not torch.equal(images, x[: 7 * uploads : 7])


def test_the_server_alone_computes_more(tmp_path: Path) -> None:
    """Its updates go to the whole chain where uploads have been denoised; clients do and send what they did."""
    strategy = federate(small(tmp_path / "with", **DENOISED, server__batch_size=1))
    federate(small(tmp_path / "without", num_rounds=4, server__batch_size=1))
    rows, plain = metrics(tmp_path / "with"), metrics(tmp_path / "without")
    images = sum(strategy.pool.sizes().values())
    for row, own in zip(rows, plain, strict=True):
        denoises = row["round"] in (3, 4)
        assert row["bytes_up"] == own["bytes_up"]
        assert row["clients"] == own["clients"]
        assert row["server"]["image_updates"] == pytest.approx((1.0 if denoises else 0.7) * images, abs=1)
        forward = own["server"]["flops"] / own["server"]["image_updates"] / 3
        took = row["server"]["flops"] - 3 * forward * row["server"]["image_updates"]
        assert took == pytest.approx(3 * images * forward * denoises, abs=1)
    for name in ("x_k.bin", "labels.bin"):
        same = [(RunLayout(tmp_path / run).pool / name).read_bytes() for run in ("with", "without")]
        assert same[0] == same[1]


def test_before_the_first_iteration_no_bit_is_another(tmp_path: Path) -> None:
    runs = {"with": DENOISED, "without": {"num_rounds": 4}}
    for name, own in runs.items():
        config = small(tmp_path / name, **own)
        with pytest.raises(KeyboardInterrupt):
            federate(config, connect(config, spoiled(0, die, rounds=[3])))
    assert metrics(tmp_path / "with") == metrics(tmp_path / "without")
    assert not (RunLayout(tmp_path / "with").denoised / "x_k.bin").exists()
    assert not RunLayout(tmp_path / "without").denoised.exists()


def die(message: Message, context: Context) -> Message | None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("iterations", [1, 2])
def test_a_run_that_is_killed_goes_on_to_the_same_bits(tmp_path: Path, iterations: int) -> None:
    """In a round that denoises, and in the one after it, which takes up what was denoised; and the same seed twice."""
    own = DENOISED | {"deconvolution.iterations": iterations}
    federate(small(tmp_path / "whole", **own))
    config = small(tmp_path / "killed", **own)
    for round_ in (3, 4):
        with pytest.raises(KeyboardInterrupt):
            federate(config, connect(config, spoiled(0, die, rounds=[round_])))
    federate(config)
    assert metrics(tmp_path / "killed") == metrics(tmp_path / "whole")
    assert bytes_of(tmp_path / "killed") == bytes_of(tmp_path / "whole")
    assert "server/denoised/x_k.bin" in bytes_of(tmp_path / "whole")


def test_without_what_was_denoised_and_damaged_a_run_goes_on(tmp_path: Path) -> None:
    """Until the next iteration, if there is one: steps below the cut have no images meanwhile."""
    config = small(tmp_path, **DENOISED | {"deconvolution.iterations": 1})
    with pytest.raises(KeyboardInterrupt):
        federate(config, connect(config, spoiled(0, die, rounds=[4])))
    path = RunLayout(tmp_path).denoised / "x_k.bin"
    path.write_bytes(bytes(len(path.read_bytes())))
    strategy = federate(config)
    assert strategy.deconvolution is not None
    assert strategy.deconvolution.images.lost == {0, 1, 2}
    third, fourth = (row["server"]["image_updates"] for row in metrics(tmp_path)[2:])
    assert fourth <= 0.7 * third + config.server.batch_size


def test_a_run_that_is_killed_amid_its_denoising_does_all_of_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    federate(small(tmp_path / "whole", **DENOISED))
    config = small(tmp_path / "killed", **DENOISED)
    add, added = UploadBuffer.add, list[int]()

    def dies(buffer: UploadBuffer, client: int, cut: int, upload: Any) -> None:
        if buffer.folder.name == "denoised":
            added.append(client)
            # The second image set of the second iteration.
            if len(added) == 5:
                raise KeyboardInterrupt
        add(buffer, client, cut, upload)

    monkeypatch.setattr(UploadBuffer, "add", dies)
    with pytest.raises(KeyboardInterrupt):
        federate(config)
    monkeypatch.setattr(UploadBuffer, "add", add)
    federate(config)
    assert metrics(tmp_path / "killed") == metrics(tmp_path / "whole")
    assert bytes_of(tmp_path / "killed") == bytes_of(tmp_path / "whole")


def test_clean_uploads_need_no_denoising_and_others_start_at_their_own_cuts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuts: list[tuple[int, int]] = []
    draw = Backbone.draw_images

    def noted(backbone: Backbone, x_k: Any, cut: int, *rest: Any) -> Any:
        cuts.append((cut, len(x_k)))
        return draw(backbone, x_k, cut, *rest)

    monkeypatch.setattr(Backbone, "draw_images", noted)
    strategy = federate(small(tmp_path, **DENOISED, num_supernodes=5, cut__client_ratios=[0, 0.3, 0.6, 0.3, 1]))
    assert strategy.deconvolution is not None
    sizes = strategy.pool.sizes()
    assert sizes.keys() == {0, 1, 2, 3}
    # Those of one cut together.
    assert cuts == 2 * [(6, sizes[1] + sizes[3]), (12, sizes[2])]
    images = strategy.deconvolution.images
    assert {client: share.cut for client, share in images.shares.items()} == {1: 6, 3: 6, 2: 12}
    for client in images.sizes():
        assert torch.equal(images.labels_of(client), strategy.pool.labels_of(client))  # type: ignore[arg-type]
    source, lasts = strategy.deconvolution.source(strategy.pool, None, dict(sizes))
    sides = torch.stack([source.cuts, lasts]).unique(dim=1).T.tolist()
    assert sides == [[0, 6], [0, 12], [0, 20], [6, 20], [12, 20]]


def test_a_backbone_without_labels_denoises_without_them(tmp_path: Path) -> None:
    strategy = federate(small(tmp_path, **DENOISED, upload__share_labels=False))
    assert strategy.deconvolution is not None
    source, _ = strategy.deconvolution.source(strategy.pool, None, dict(strategy.pool.sizes()))
    assert source.batch(torch.arange(5))[2] is None


def test_no_client_is_most_of_what_is_denoised(tmp_path: Path) -> None:
    strategy = federate(small(tmp_path, **DENOISED, federation__max_client_weight=0.35))
    assert strategy.deconvolution is not None
    most = strategy._sizes(strategy.pool.sizes())
    source, lasts = strategy.deconvolution.source(strategy.pool.limited(most), None, most)
    wanted = sum(max(1, int(rows)) for rows in most.values())
    assert wanted < len(strategy.pool)
    assert int((lasts == 6).sum()) == 3 * wanted
    assert len(source) == 10 * wanted
