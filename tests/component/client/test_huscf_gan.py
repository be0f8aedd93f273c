"""A client of the split GAN between two messages: the order of phases, and what its disk is good for."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Context, RecordDict

from collafuse_flwr import client_app
from collafuse_flwr.client import session_store as workspace
from collafuse_flwr.client.huscf_gan import HuscfGanClient
from collafuse_flwr.client.session_store import MAX_LIVE, MOVED, SessionStore
from collafuse_flwr.client.split_session import Batches, PhaseCursor
from collafuse_flwr.core.errors import SettingError, UserError
from collafuse_flwr.gan.networks import Cuts
from collafuse_flwr.gan.split_gan.client_half import PARTS
from collafuse_flwr.gan.split_gan.ops import PHASES, Tensors
from collafuse_flwr.setup.gan import build_gan_architecture
from collafuse_flwr.wire.split_gan import EndRoundRequest, SplitRequest
from strategies.split_transport import ActivationShapes
from tests.small_runs import here_is, small

CUTS = Cuts.parse("0110")
ORDER = list(PHASES)


def a_client(folder: Path, **settings: Any) -> HuscfGanClient:
    one: dict[str, Any] = {
        "num_supernodes": 2,
        "data.max_images": 40,
        "gan.width": 2,
        "gan.batch_size": 4,
        "partition": "iid",
    }
    one |= {"split_gan.client_cuts": str(CUTS)} | settings
    config = small(folder, strategy="huscf_gan", **one)
    client = here_is(config, folder, 0)
    assert isinstance(client, HuscfGanClient)
    return client


def down(client: HuscfGanClient, step: int, phase: str) -> Tensors:
    """Something that a server could send in a phase."""
    shapes = ActivationShapes(build_gan_architecture(client.config, 1, 8, 10), 4, factored=False)
    names = PHASES[phase][0] if (step, phase) != (0, "latent") else ()
    at = {name: next(part for part in name.split("_") if part in ("gh", "gt", "dh", "dt")) for name in names}
    made = torch.Generator().manual_seed(step * 10 + ORDER.index(phase))
    return {name: torch.randn((4, *shapes.cut(CUTS, cut)), generator=made) for name, cut in at.items()}


def same(a: Tensors, b: Tensors) -> bool:
    return a.keys() == b.keys() and all(torch.equal(b[name], value) for name, value in a.items())


def ask(client: HuscfGanClient, step: int, phase: str, round_: int = 1) -> Tensors:
    request = SplitRequest(round_, step, phase, str(CUTS), down(client, step, phase), {})
    return client.on_split(request).activations


def close(client: HuscfGanClient, round_: int = 1) -> dict[str, torch.Tensor]:
    request = EndRoundRequest(round_, str(CUTS), {"grad_gh": down(client, 1, "latent")["grad_gh"]})
    return client.on_train(request).weights


def clear(folder: Path) -> None:
    workspace._LIVE.clear()


def save(folder: Path) -> None:
    """Another process has written since: the stamp is not that of the live session."""
    path = folder / "clients" / "0" / "working" / "phase.json"
    path.write_text(path.read_text().replace('"stamp": "', '"stamp": "x'))


@pytest.mark.parametrize("between", [clear, save], ids=["another process", "another stamp"])
def test_a_client_killed_between_phases_goes_on_from_its_disk(tmp_path: Path, between: Any) -> None:
    answers = []
    for name, act in (("straight", lambda _: None), ("killed", between)):
        client, given = a_client(tmp_path / name), []
        for step in (0, 1):
            for phase in ORDER:
                given.append(ask(client, step, phase))
                act(tmp_path / name)
        answers.append(([*given, close(client)], client.store.load(before=9)[1]))
    (straight, kept), (killed, again) = answers
    for one, other in zip([*straight, kept], [*killed, again], strict=True):
        assert one.keys() == other.keys()
        assert [name for name in one if not torch.equal(one[name], other[name])] == []


def test_a_live_session_whose_files_are_gone_is_not_used(tmp_path: Path) -> None:
    client = a_client(tmp_path)
    ask(client, 0, "latent")
    shutil.rmtree(tmp_path / "clients" / "0" / "working")
    with pytest.raises(UserError, match=r"^a phase of a batch was requested before its round had begun$"):
        ask(client, 0, "fake")


@pytest.mark.parametrize(
    ("step", "phase"), [(0, "latent"), (0, "judge"), (1, "fake"), (1, "latent"), (0, "generator"), (-1, "fake")]
)
def test_only_the_phase_that_is_due_is_answered(step: int, phase: str) -> None:
    progress = PhaseCursor(1)
    progress.next(0, "latent")
    with pytest.raises(UserError) as caught:
        progress.next(step, phase)
    assert str(caught.value) == f"batch {step}, phase {phase} was requested; due is batch 0, phase fake"
    for due in ORDER[1:]:
        progress.next(0, due)
    progress.end()
    progress.next(1, "latent")


def test_a_round_ends_with_a_batch_and_is_the_one_that_began(tmp_path: Path) -> None:
    client = a_client(tmp_path)
    with pytest.raises(UserError, match="before its round had begun"):
        close(client)
    ask(client, 0, "latent")
    with pytest.raises(UserError, match=r"^the end of round 1 was requested; due is batch 0, phase fake$"):
        close(client)
    other = r"^round 2 was requested; under way is round 1$"
    with pytest.raises(UserError, match=other):
        close(client, round_=2)
    with pytest.raises(UserError, match=other):
        ask(client, 0, "fake", round_=2)
    for phase in ORDER[1:]:
        ask(client, 0, phase)
    close(client)
    with pytest.raises(UserError, match="before its round had begun"):
        close(client)


def test_a_round_may_begin_again(tmp_path: Path) -> None:
    client = a_client(tmp_path)
    first = ask(client, 0, "latent")
    ask(client, 0, "fake")
    assert torch.equal(ask(client, 0, "latent")["gh"], first["gh"])


def test_a_cut_below_the_clients_own_least_is_refused(tmp_path: Path) -> None:
    client = a_client(tmp_path, split_gan__min_cut="0010")
    request = SplitRequest(1, 0, "latent", "0000", {}, {})
    with pytest.raises(SettingError) as caught:
        client.on_split(request)
    allowed = "at most 0: the server requested the cuts 0000"
    assert str(caught.value) == f"`split_gan.min_cut` = '0010' is not allowed: {allowed}"


def test_a_client_with_images_of_its_own_needs_messages(tmp_path: Path) -> None:
    config = small(tmp_path, strategy="huscf_gan", gan__transport="in_process")
    node: dict[str, Any] = {"partition-id": 0, "data-path": str(tmp_path), "state-path": str(tmp_path / "state")}
    with pytest.raises(SettingError) as caught:
        client_app._client(config, Context(1, 2, node, RecordDict(), config.to_flower()), None)
    allowed = "messages where clients hold images of their own"
    assert str(caught.value) == f"`gan.transport` = 'in_process' is not allowed: {allowed}"


def test_every_phase_says_what_it_moves(tmp_path: Path) -> None:
    """Whatever changes in a phase must be written after it."""
    client = a_client(tmp_path)
    assert MOVED.keys() == PHASES.keys()
    before: dict[str, Tensors] = {}
    moved: set[str] = set()
    for step in (0, 1):
        for phase in ORDER:
            ask(client, step, phase)
            half = client._workspace().load(client._session).half
            now = {part: {name: value.clone() for name, value in half.part_state(part).items()} for part in PARTS}
            changed = {part for part in before if not same(before[part], now[part])}
            assert changed <= set(MOVED[phase]), phase
            moved |= changed
            before = now
    assert moved == set(PARTS)


def test_a_process_keeps_few_sessions_alive(tmp_path: Path) -> None:
    workspace._LIVE.clear()
    client = a_client(tmp_path)
    session = client.open_round(1, str(CUTS), {})
    for number in range(MAX_LIVE + 3):
        SessionStore(tmp_path / str(number)).save(session, ())
    assert len(workspace._LIVE) == MAX_LIVE
    assert tmp_path / "2" not in workspace._LIVE
    assert tmp_path / "3" in workspace._LIVE
    SessionStore(tmp_path / "3").clear()
    assert tmp_path / "3" not in workspace._LIVE
    assert list((tmp_path / "3").iterdir()) == []
    workspace._LIVE.clear()


@pytest.mark.parametrize("partition", ["iid", "dirichlet"])
def test_labels_of_fakes_are_drawn_from_all_of_the_clients_whatever_the_batch_has(
    tmp_path: Path, partition: str
) -> None:
    own = {"split_gan.fake_labels": "drawn", "partition": partition, "data.max_images": 200, "gan.batch_size": 32}
    client = a_client(tmp_path, **own)
    batches, classes = client._batches(), client.data.train.num_classes
    drawn = [batches.draw(1, step) for step in range(150)]
    fakes = torch.cat([own.fake_labels for own in drawn])
    assert torch.equal(batches.draw(1, 3).fake_labels, drawn[3].fake_labels)
    assert not torch.equal(drawn[3].fake_labels, drawn[4].fake_labels)
    expected = client.data.train.labels.bincount(minlength=classes) / len(client.data.train)
    frequencies = fakes.bincount(minlength=classes) / len(fakes)
    assert (frequencies - expected).abs().max() < 4 * 0.5 / len(fakes) ** 0.5
    # They meet the real ones as often as two independent draws would.
    right = torch.cat([own.labels for own in drawn]) == fakes
    assert abs(right.float().mean() - expected.square().sum()) < 4 * 0.5 / len(fakes) ** 0.5


def test_augmentation_is_the_same_wherever_a_phase_is_answered_and_keyed_by_the_secret(tmp_path: Path) -> None:
    batches = a_client(tmp_path, split_gan__augmentation="translation+cutout")._batches()
    batch, again = batches.draw(1, 0), batches.draw(1, 0)
    stranger = replace(batches, root=bytes(16)).draw(1, 0)
    x = torch.ones((4, 1, 8, 8))
    shown = batch.shown("dh_real", x)
    assert torch.equal(shown, again.shown("dh_real", x))
    others = [batch.shown("dh_fake", x), batches.draw(1, 1).shown("dh_real", x), stranger.shown("dh_real", x)]
    assert not any(torch.equal(shown, other) for other in others)


def test_noise_is_normal_and_keyed_by_the_secret(tmp_path: Path) -> None:
    batches = a_client(tmp_path, split_gan__activation_noise=0.5)._batches()
    activations = torch.zeros((64, 8, 4, 4))

    def noise(own: Batches, step: int, name: str) -> torch.Tensor:
        made = own.draw(1, step).noise
        assert made is not None
        return made(name, activations)

    first = noise(batches, 0, "dh")
    assert first.std().item() == pytest.approx(0.5, rel=0.03)
    assert torch.equal(first, noise(batches, 0, "dh"))
    stranger = replace(batches, secret=bytes(16))
    made = batches.draw(1, 0).noise
    assert made is not None
    others = [noise(batches, 1, "dh"), noise(batches, 0, "dh_real"), noise(stranger, 0, "dh")]
    others.append(made("dh", activations + 1))
    assert all(abs(torch.corrcoef(torch.stack([first.flatten(), x.flatten()]))[0, 1]) < 0.05 for x in others)


MOVING: dict[str, Any] = {"split_gan.replan_rounds": 2, "devices.profiles": ["2", "2"], "split_gan.client_cuts": ""}


def a_round(client: HuscfGanClient, round_: int, cuts: str, next_cuts: str | None) -> Tensors:
    """What a client sends at the end of a round of one batch."""
    shapes = ActivationShapes(build_gan_architecture(client.config, 1, 8, 10), 4, factored=False)
    for phase, (names, _) in PHASES.items():
        at = {name: next(p for p in name.split("_") if p in ("gh", "gt", "dh", "dt")) for name in names}
        tensors = {n: torch.ones((4, *shapes.cut(Cuts.parse(cuts), cut))) for n, cut in at.items() if phase != "latent"}
        client.on_split(SplitRequest(round_, 0, phase, cuts, tensors, {}))
    return client.on_train(EndRoundRequest(round_, cuts, {}, next_cuts)).weights


def test_moments_leave_with_a_block_and_with_no_other(tmp_path: Path) -> None:
    client = a_client(tmp_path, **MOVING)
    assert not [name for name in a_round(client, 2, "1111", "1111") if ":" in name]
    sent = [name for name in a_round(client, 4, "1111", "1101") if ":" in name]
    assert {name.partition(":")[2].rsplit(".", 2)[0] for name in sent} == {"discriminator.1"}
    # It takes a block back, and leaves none.
    assert not [name for name in a_round(client, 6, "1101", "1111") if ":" in name]


@pytest.mark.parametrize(
    ("settings", "round_", "next_cuts", "message"),
    [
        ({"split_gan.replan_rounds": 0}, 2, "0110", "`split_gan.replan_rounds` = 0 is not allowed: a divisor of 2"),
        ({}, 3, "0110", "`split_gan.replan_rounds` = 2 is not allowed: a divisor of 3"),
        ({"split_gan.min_cut": "0010"}, 2, "1100", "`split_gan.min_cut` = '0010' is not allowed: at most 0"),
        ({"split_gan.min_cut": "0100"}, 2, "1010", "`split_gan.min_cut` = '0100' is not allowed: at most 1010"),
        ({}, 2, "0200", "at most 1 extra blocks"),
    ],
)
def test_cuts_move_when_and_where_the_settings_let_them(
    tmp_path: Path, settings: dict[str, Any], round_: int, next_cuts: str, message: str
) -> None:
    """A server that could choose any cut would have activations as near to the images as it likes."""
    own = MOVING | settings
    if not own["split_gan.replan_rounds"]:
        own |= {"split_gan.client_cuts": "1110"}
    client = a_client(tmp_path, **own)
    with pytest.raises(SettingError, match=message):
        a_round(client, round_, "1110", next_cuts)


def test_a_round_keeps_the_cuts_that_it_began_with(tmp_path: Path) -> None:
    client = a_client(tmp_path, **MOVING)
    client.on_split(SplitRequest(1, 0, "latent", "0110", {}, {}))
    for forgotten in (False, True):
        if forgotten:
            workspace._LIVE.clear()
        with pytest.raises(UserError, match=r"^round 1 was requested with the cuts 1111; it began with 0110$"):
            client.on_split(SplitRequest(1, 0, "fake", "1111", {}, {}))
