"""What the server really receives in a whole run, and what can be made of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from numpy.typing import NDArray

from collafuse_flwr.client_app import app as client_app
from collafuse_flwr.core.errors import UploadError
from collafuse_flwr.data.federated import federation_data
from collafuse_flwr.data.images import normalize
from collafuse_flwr.setup.diffusion import diffusion_setup
from collafuse_flwr.wire.codec import decode, encode
from collafuse_flwr.wire.collafuse import TrainReply
from tests.attributes import digits_with_attributes
from tests.small_runs import connect, federate, in_file_order, small


class Tap:
    """A ClientApp whose replies are all kept, by client."""

    def __init__(self) -> None:
        self.replies: dict[int, list[RecordDict]] = defaultdict(list)
        self.app = ClientApp()
        for register in (self.app.query("client_info"), self.app.train(), self.app.evaluate()):
            register(self._call)

    def _call(self, message: Message, context: Context) -> Message:
        reply = client_app(message, context)
        self.replies[int(context.node_config["partition-id"])].append(reply.content)
        return reply

    def arrays(self, client: int) -> list[tuple[str, NDArray[Any]]]:
        """Every array that a client sent, with its name."""
        return [
            (name, array.numpy())
            for content in self.replies[client]
            for record in content.array_records.values()
            for name, array in record.items()
        ]


@pytest.fixture
def attributed() -> Iterator[None]:
    with digits_with_attributes():
        yield


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"upload.share_labels": False},
        {"data.conditioning": "none"},
        {"cut.client_ratios": [0.3, 0.6, 1]},
        {"data.conditioning": "attributes", "upload.draws_per_image": 2},
        {"data.conditioning": "attributes", "upload.share_labels": False},
    ],
)
def test_no_message_holds_more_than_the_schema_lists(
    attributed: None, tmp_path: Path, settings: dict[str, Any]
) -> None:
    """Numbers, and one upload: x_k, its scale and, if they are shared, labels: classes or attributes, never both."""
    tap, config = Tap(), small(tmp_path, num_rounds=3, **settings)
    federate(config, connect(config, tap.app))
    labels = ["labels"] if config.shares_labels() else []
    data = federation_data(config.data, 3, 0)
    for client, cut in enumerate(config.cut_steps()):
        uploads = [] if cut == config.diffusion.timesteps else sorted(["x_k", "scale", *labels])
        assert sorted(name for name, _ in tap.arrays(client)) == uploads
        images = data.client(client).train
        conditions = images.metadata.attributes if config.data.conditioning == "attributes" else images.labels
        assert conditions is not None
        for sent in (array for name, array in tap.arrays(client) if name == "labels"):
            assert sent.dtype == (np.uint8 if config.data.conditioning == "attributes" else np.int64)
            expected = np.concatenate([conditions] * config.upload.draws_per_image)
            assert np.array_equal(in_file_order(config, tmp_path, client, sent), expected)
        for content in tap.replies[client]:
            assert not content.config_records
            assert set(content.metric_records) == {"metrics"}
            for value in content.metric_records["metrics"].values():
                assert isinstance(value, (int, float)), "a list could carry an image"


def _best_fit(x_0: NDArray[Any], seen: list[NDArray[Any]]) -> float:
    """Least mean squared error of x_0 over all linear combinations of what was seen, and a constant."""
    columns = np.stack([*(s.ravel() for s in seen), np.ones(x_0.size)], axis=1)
    weights, *_ = np.linalg.lstsq(columns, x_0.ravel(), rcond=None)
    return float(np.square(columns @ weights - x_0.ravel()).mean())


def test_no_combination_of_what_was_received_beats_one_noised_image(tmp_path: Path) -> None:
    """All arrays of all rounds together, and the labels, rebuild x_0 no better than x_k alone."""
    tap, config = Tap(), small(tmp_path, num_rounds=4, upload__dtype="float32", evaluation__every=1)
    federate(config, connect(config, tap.app))
    setup, data = diffusion_setup(config), federation_data(config.data, 3, 0)
    for client, cut in enumerate(config.cut_steps()):
        x_0 = normalize(data.client(client).train.images).numpy().astype(np.float64)
        arrays = [(name, array) for name, array in tap.arrays(client) if name != "scale"]
        sent = [(name, in_file_order(config, tmp_path, client, array)) for name, array in arrays]
        images = [array.astype(np.float64) for name, array in sent if name == "x_k"]
        labels = [array for name, array in sent if name == "labels"]
        spread = [np.broadcast_to(array[:, None, None, None], x_0.shape).astype(np.float64) for array in labels]
        x_k = images[0]
        alone, together = _best_fit(x_0, [x_k, *spread]), _best_fit(x_0, [*images, *spread])
        assert together >= alone - 1e-9
        # What is left is the noise: the error of the best linear filter, known in closed form from the variance.
        snr = float(setup.schedule.snr()[cut])
        assert _best_fit(x_0, [x_k]) == pytest.approx(x_0.var() / (1 + snr * x_0.var()), rel=0.1)


def test_fresh_uploads_can_be_averaged_and_once_cannot(tmp_path: Path) -> None:
    """Why an image leaves once: with new noise in every round, the error falls with the number of rounds."""
    errors = {}
    for upload in ("fixed", "resampled"):
        tap, config = Tap(), small(tmp_path / upload, num_rounds=4, upload__dtype="float32", upload__noise=upload)
        federate(config, connect(config, tap.app))
        x_0 = normalize(federation_data(config.data, 3, 0).client(0).train.images).numpy().astype(np.float64)
        uploads = [array for name, array in tap.arrays(0) if name == "x_k"]
        rounds = range(1) if upload == "fixed" else range(len(uploads))
        folder, drawn = tmp_path / upload, zip(rounds, uploads, strict=True)
        seen = [in_file_order(config, folder, 0, x_k, draw) for draw, x_k in drawn]
        errors[upload] = _best_fit(x_0, seen)
    assert errors["resampled"] < 0.5 * errors["fixed"]


def test_the_first_papers_triple_would_give_the_image_away(tmp_path: Path) -> None:
    """(x_t, noise, t) is inverted exactly; the same with our upload fails, for the noise is not in it."""
    tap, config = Tap(), small(tmp_path, upload__dtype="float32", num_rounds=1)
    federate(config, connect(config, tap.app))
    alpha_bar = float(diffusion_setup(config).schedule.alpha_bar[config.cut_steps()[0]])
    x_0 = normalize(federation_data(config.data, 3, 0).client(0).train.images).numpy()
    x_k = in_file_order(config, tmp_path, 0, next(array for name, array in tap.arrays(0) if name == "x_k"))
    noise = (x_k - alpha_bar**0.5 * x_0) / (1 - alpha_bar) ** 0.5
    rebuilt = (x_k - (1 - alpha_bar) ** 0.5 * noise) / alpha_bar**0.5
    assert np.abs(rebuilt - x_0).max() < 1e-5
    assert abs(noise.mean()) < 0.1
    assert abs(noise.std() - 1) < 0.1


@pytest.mark.parametrize("extra", ["noise", "x_0", "seed", "weights"])
def test_a_reply_with_any_other_field_is_refused(tmp_path: Path, extra: str) -> None:
    tap, config = Tap(), small(tmp_path, num_rounds=1)
    federate(config, connect(config, tap.app))
    content = next(c for c in tap.replies[0] if "upload" in c)
    decode(TrainReply, content)
    arrays = content.array_records["upload"].to_torch_state_dict()
    wider = RecordDict({**content, "upload": ArrayRecord({**arrays, extra: arrays["x_k"]})})
    with pytest.raises(UploadError, match=extra):
        decode(TrainReply, wider)
    with pytest.raises(UploadError, match=extra):
        decode(TrainReply, RecordDict({**content, extra: ArrayRecord({extra: arrays["x_k"]})}))


def test_the_server_sends_no_more_than_weights_and_samples(tmp_path: Path) -> None:
    """Down go the round, the backbone's weights and hand-overs: nothing that one client said reaches another."""
    strategy = federate(small(tmp_path, num_rounds=1, client__init_from="backbone", client__start_round=1))
    shapes = {tuple(value.shape) for value in strategy.backbone.state.ema_state_dict().values()}
    strategy.initialised.clear()
    assert {tuple(array.shape) for array in strategy.arrays.values()} <= shapes
    for client in (0, 1):
        content = encode(strategy._train_request(client, 1))
        assert set(content) == {"config", "backbone"}
        assert content.array_records["backbone"] is strategy.arrays
    strategy._sample_to_cuts(1, {0: 4})
    handoff, x_k = strategy._evaluate_request(0, 1, 4)
    assert {name: set(record) for name, record in encode(handoff).items()} == {
        "config": {"round"},
        "arrays": {"x_k", "labels"},
    }
    assert x_k.shape == (4, 1, 8, 8)
