"""How often the backbone may be used, by whom, and for what."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import ArrayRecord, Message

from collafuse_flwr.client_app import app as client_app
from collafuse_flwr.config.config import Config
from collafuse_flwr.core.errors import SettingError, UserError
from collafuse_flwr.runs.run_dir import open_run
from collafuse_flwr.runs.run_layout import RunLayout
from collafuse_flwr.wire.codec import encode
from collafuse_flwr.wire.generation import Generated, ImagesWanted
from simulations.run import run
from simulations.runners.local import run_local
from tests.generating import answer_otherwise, generate_with, generating, own, pictures
from tests.small_runs import small

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
def test_what_the_run_cannot_make_is_refused_before_any_request(
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
