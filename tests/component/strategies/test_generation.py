"""Generating after training: server and clients together, each on its own disk, as one process makes it alone."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import ArrayRecord, Context, Message
from flwr.clientapp import ClientApp

from collafuse_flwr.client_app import app as client_app
from collafuse_flwr.config.config import Config
from collafuse_flwr.core.errors import SettingError, UserError
from collafuse_flwr.core.progress import Progress
from collafuse_flwr.runs.history import RoundRecord
from collafuse_flwr.runs.run_dir import open_run
from collafuse_flwr.runs.run_layout import RunLayout
from collafuse_flwr.wire.codec import encode
from collafuse_flwr.wire.generation import Generated, ImagesWanted
from simulations import generate, request
from simulations.run import run
from simulations.runners.local import run_local
from strategies import make_strategy
from strategies.generation import generate_together
from tests.commands import refused
from tests.message_guard import Tap, guard
from tests.small_runs import connect, here_is, small

#: Three kinds of clients: the server makes all of its images, both do, or it alone does.
CUTS = [0, 0.3, 1]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "run"
    return run_local(small(folder, cut__client_ratios=CUTS, num_rounds=1, evaluation__tstr="none")).folder


@pytest.fixture
def trained(finished: Path, tmp_path: Path) -> Path:
    """A copy to generate in."""
    return shutil.copytree(finished, tmp_path / "run")


def generating(folder: Path, num_images: int = 5, **settings: Any) -> Config:
    given = {name.replace("__", "."): value for name, value in settings.items()}
    given = {"task": "generate", "output": str(folder), "generate.num_images": num_images, "quiet": True} | given
    return Config.from_flat({"runner": "local", "num_supernodes": 3} | given)


def pictures(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.png")}


def own(run: Path, client: int, number: int = 1) -> Path:
    """Where a client of a simulation has what was generated."""
    return RunLayout(run).client(client).folder / "generated" / f"{number:04d}"


def alone(folder: Path, output: Path, *arguments: str) -> dict[str, bytes]:
    """What simulations.generate makes of the run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["generate", f"run={folder}", f"output={output}", *arguments])
        assert generate.main() == 0
    return pictures(output)


def answer_otherwise(client: int, kind: str, reply: Callable[[Message], Message]) -> ClientApp:
    """The ClientApp, but one client answers messages of a kind in its own way."""

    def call(message: Message, context: Context) -> Message:
        if context.node_config["partition-id"] == client and message.metadata.message_type == kind:
            return reply(message)
        return client_app(message, context)

    app = ClientApp()
    for name in ("client_info", "images_wanted", "generate"):
        app.query(name)(call)
    return app


def generate_with(app: ClientApp, config: Config, partitions: list[int] | None = None) -> None:
    """A run that generates, with other clients."""
    generate_together(config, connect(config, app, partitions), Progress(quiet=True), 7)


# The same images.


def test_server_and_clients_make_what_one_process_makes_bit_for_bit(trained: Path, tmp_path: Path) -> None:
    run(generating(trained, generate__seed=3))
    for client in range(3):
        made = pictures(own(trained, client))
        assert len(made) == 6
        assert made == alone(trained, tmp_path / str(client), f"client={client}", "num_images=5", "seed=3")
    written = json.loads((own(trained, 1) / "generated.json").read_text())
    assert (written["cut_step"], written["seed"], written["num_images"]) == (6, 3, 5)


@pytest.mark.parametrize(
    "settings",
    [
        {"upload__share_labels": False, "sampling__sampler": "ddpm"},
        {"data__conditioning": "none", "cut_ratio": 0.6},
        {"strategy": "hybrid"},
        {"strategy": "local", "train__cfg_dropout": 0.2},
        {"strategy": "fedavg"},
        {"strategy": "udec"},
    ],
    ids=["labels are kept back", "no labels", "hybrid", "local", "fedavg", "udec"],
)
def test_so_does_every_strategy_of_denoisers(tmp_path: Path, settings: dict[str, Any]) -> None:
    folder = tmp_path / "run"
    config = small(folder, num_supernodes=2, num_rounds=1, evaluation__tstr="none", **settings)
    run_local(config)
    guided = {"generate__guidance": 2.0} if config.train.cfg_dropout else {}
    run_local(generating(folder, 4, num_supernodes=2, **guided))
    arguments = ["client=1", "num_images=4", *(["guidance=2"] if guided else [])]
    made = pictures(own(folder, 1))
    assert len(made) == 5
    assert made == alone(folder, tmp_path / "alone", *arguments)


def test_one_class_for_one_client(trained: Path, tmp_path: Path) -> None:
    run(generating(trained, generate__client=1, generate__label=4))
    assert pictures(own(trained, 1)).keys() == {*(f"{i}-class-4.png" for i in range(5)), "grid.png"}
    assert not own(trained, 0).exists()
    assert not own(trained, 2).exists()


def test_a_run_that_still_goes_on_generates_with_its_last_evaluation(tmp_path: Path) -> None:
    """Its server saves the backbone whenever clients save their networks."""
    folder = tmp_path / "run"
    config = small(folder, num_supernodes=2, num_rounds=3, evaluation__every=1)
    open_run(config, folder)

    class StopsError(Exception):
        pass

    def stop(row: RoundRecord) -> None:
        raise StopsError

    strategy = make_strategy(config, folder, Progress(quiet=True), lambda client: here_is(config, folder, client))
    strategy.on_round, grid = stop, connect(config)
    with pytest.raises(StopsError):
        strategy.start(grid, strategy.connect(grid), 3)
    run_local(generating(folder, num_supernodes=2))
    assert len(pictures(own(folder, 1))) == 6


# What crosses.


@pytest.mark.parametrize("share", [True, False])
def test_images_never_travel_and_a_count_is_the_answer(tmp_path: Path, share: bool) -> None:
    folder, tap = tmp_path / "run", Tap()
    run_local(small(folder, num_supernodes=2, num_rounds=1, evaluation__tstr="none", upload__share_labels=share))
    config = generating(folder, num_supernodes=2)
    generate_with(tap.app, config)
    assert len(tap.crossed) == 12
    seen = guard(config, tap.crossed)
    assert {name for kind, way, _, name in seen if (kind, way) == ("query.generate", "up")} == {"num_images"}
    assert (("query.generate", "down", "arrays", "labels") in seen) == share


# What a client's owner wants.


def ask(*arguments: str) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["request", *arguments])
        return request.main()


def test_a_request_is_served_by_the_next_run(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = RunLayout(trained).client(1).folder
    assert ask(f"state={state}", "num_images=3", "label=5", "seed=8") == 0
    assert "the next run with task=generate serves it" in capsys.readouterr().out
    run(generating(trained, 0))
    assert pictures(own(trained, 1)).keys() == {*(f"{i}-class-5.png" for i in range(3)), "grid.png"}
    assert not own(trained, 0).exists()
    run(generating(trained, 2))
    assert len(pictures(own(trained, 1, 2))) == 3
    assert not own(trained, 1, 3).exists()


def test_both_are_served_in_one_run(trained: Path) -> None:
    assert ask(f"state={RunLayout(trained).client(2).folder}", "num_images=3") == 0
    run(generating(trained, 2))
    assert [len(pictures(own(trained, 2, number))) for number in (1, 2)] == [3, 4]


def test_a_request_can_be_taken_back(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = RunLayout(trained).client(1).folder
    assert ask(f"state={state}") == 0
    assert ask(f"state={state}", "num_images=0") == 0
    capsys.readouterr()
    run(generating(trained, 0))
    assert capsys.readouterr().out == "nobody wants any image\n"


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("label=10", "`label` = 10 is not allowed: -1 for all, or one of 0..9"),
        ("label=one", "`label` = 'one' is not allowed: a whole number >= -1"),
        ("num_images=-1", "`num_images` = -1 is not allowed: a whole number >= 0"),
        ("seed=-1", "`seed` = -1 is not allowed"),
        ("run=../other", "`run` = '../other' is not allowed: one of none"),
        ("colour=red", "`colour` = 'red' is not allowed: one of state="),
        ("state=/absent", "`state` = '/absent' is not allowed: the folder of a client that has come to an evaluation"),
        ("state=", "`state` = '' is not allowed"),
    ],
)
def test_a_mistake_in_a_request_is_one_line(
    finished: Path, capsys: pytest.CaptureFixture[str], argument: str, said: str
) -> None:
    state = RunLayout(finished).client(1).folder
    assert ask(f"state={state}", argument) == 2
    assert said in refused(capsys)
    assert not (state / "request.json").exists()


# How often.


def test_the_backbone_begins_so_many_images_for_a_client_ever(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    most: dict[str, Any] = {"generate__max_per_client": 8}
    run(generating(trained, 5, generate__client=1, **most))
    run(generating(trained, 3, generate__client=1, **most))
    with pytest.raises(UserError, match=r"nobody has made any image: `generate\.max_per_client` = 8 leaves"):
        run(generating(trained, 1, generate__client=1, **most))
    assert "client 1: `generate.max_per_client` = 8" in capsys.readouterr().out
    assert not own(trained, 1, 3).exists()
    # What was counted cannot be lost without a word.
    record = RunLayout(trained).handed_over
    whole = record.read_text()
    record.write_text("{" + whole)
    with pytest.raises(UserError, match="is damaged: restore it from a backup"):
        run(generating(trained, 1, **most))
    record.write_text(whole)
    # Others have not had theirs.
    run(generating(trained, 1, **most))
    assert len(pictures(own(trained, 0))) == 2
    assert not own(trained, 1, 3).exists()


@pytest.mark.parametrize("said", [ImagesWanted(10**12, -1, 1), ImagesWanted(-5, -1, 1), ImagesWanted(2, 10**9, 1)])
def test_a_client_that_wants_too_much_costs_only_itself(
    trained: Path, said: ImagesWanted, capsys: pytest.CaptureFixture[str]
) -> None:
    app = answer_otherwise(1, "query.images_wanted", lambda message: Message(encode(said), reply_to=message))
    generate_with(app, generating(trained))
    assert len(pictures(own(trained, 0))) == 6
    assert "\nclient 1: " in capsys.readouterr().out
    assert not own(trained, 1, 2).exists()


def test_a_client_that_sends_images_back_is_not_read(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def with_images(message: Message) -> Message:
        content = encode(Generated(5))
        content["arrays"] = ArrayRecord({"images": torch.zeros(5, 1, 8, 8)})
        return Message(content, reply_to=message)

    generate_with(answer_otherwise(2, "query.generate", with_images), generating(trained))
    assert "client 2: `Generated` may hold metrics, not arrays" in capsys.readouterr().out


def test_those_who_are_there_need_not_wait_for_others(trained: Path) -> None:
    generate_with(client_app, generating(trained, federation__min_available_nodes=2), [0, 2])
    assert own(trained, 2).is_dir()
    with pytest.raises(UserError, match="only 2 of 3 clients came"):
        generate_with(client_app, generating(trained, federation__round_timeout=0.5), [0, 2])
    with pytest.raises(UserError, match="only 0 of 1 clients came"):
        generate_with(client_app, generating(trained, generate__client=1, federation__round_timeout=0.5), [0, 2])


# Mistakes.


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"generate__client": 3},
            "`generate.client` = 3 is not allowed: -1 for all, or one of the run's clients, 0, 1",
        ),
        ({"generate__label": 10}, "`generate.label` = 10 is not allowed: -1 for all, or one of 0..9"),
        ({"generate__guidance": 2.0}, "`sampling.guidance_scale` = 2.0 is not allowed"),
    ],
)
def test_what_the_run_cannot_make_is_refused_before_anybody_is_asked(
    finished: Path, settings: dict[str, Any], said: str
) -> None:
    with pytest.raises(SettingError) as caught:
        run(generating(finished, **settings))
    assert str(caught.value).startswith(said)
    assert not RunLayout(finished).handed_over.exists()


def test_a_folder_without_such_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="`output` = '' is not allowed: the folder of the run that has trained"):
        run_local(generating(Path(), output=""))
    with pytest.raises(SettingError, match="a folder that holds a run"):
        run_local(generating(tmp_path))
    open_run(small(tmp_path / "begun"), tmp_path / "begun")
    with pytest.raises(SettingError, match="the folder of a run that has come to an evaluation"):
        run_local(generating(tmp_path / "begun"))
    gan = small(tmp_path / "gan", strategy="huscf_gan", gan__width=2)
    open_run(gan, tmp_path / "gan")
    with pytest.raises(SettingError, match=r"`output` = .* a run of diffusion models, not of huscf_gan"):
        run_local(generating(tmp_path / "gan"))


def test_settings_of_training_are_not_read(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="as `task` = generate takes the settings of the run in `output`"):
        generating(tmp_path, cut_ratio=0.3)
    with pytest.raises(SettingError, match="unless `task` is generate"):
        Config.from_flat({"generate.num_images": 3})
