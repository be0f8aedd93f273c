"""Devices by name and by their numbers, and what is refused."""

from __future__ import annotations

import math

import pytest

from collafuse_flwr.config.config import Config
from collafuse_flwr.config.devices import PROFILES, Device, parse_devices, parse_slowdowns
from collafuse_flwr.core.errors import SettingError


def test_the_papers_devices_are_dealt_in_turn() -> None:
    devices = parse_devices(("paper7",), 9)
    assert [device.name for device in devices] == ["1", "2", "3", "4", "5", "6", "7", "1", "2"]
    assert (PROFILES["1"].flops, PROFILES["1"].link) == (0.48e9, 50e6)
    assert (PROFILES["4"].flops, PROFILES["4"].link) == (45.76e9, 300e6)


def test_devices_may_be_named_or_described() -> None:
    named, described, roomy = parse_devices(
        (
            "3",
            "2.5:10",
            "250:12.5:4000",
        ),
        3,
    )
    assert named == PROFILES["3"]
    assert described == Device("2.5:10", 2.5e9, 10e6, math.inf)
    assert roomy == Device("250:12.5:4000", 250e9, 12.5e6, 4e9)
    assert described.seconds(5e9, 20e6) == 4


def test_memory_that_a_device_does_not_tell_is_the_run_s_limit() -> None:
    config = Config.from_flat(
        {
            "strategy": "huscf_gan",
            "devices.profiles": ["1", "2:2:30"],
            "num_supernodes": 2,
            "devices.client_memory_mb": 100,
        }
    )
    assert [device.memory for device in config.client_devices()] == [100e6, 30e6]
    assert Config().client_devices() == ()
    assert Config().server_device() == Device("server", 672e9, 1e9)


@pytest.mark.parametrize("text", ["8", "1;2", "1,2", "0:5", "-3:5", "nan:5", "5:inf", "5:5:0", "1:1:1:1", ""])
def test_what_is_no_device_is_refused(text: str) -> None:
    with pytest.raises(SettingError) as caught:
        Config.from_flat({"devices.profiles": ["1", text], "num_supernodes": 2})
    allowed = "paper7, or for each client one of 1, 2, 3, 4, 5, 6, 7 or GFLOP/s:MB/s[:MB of memory], above 0"
    assert str(caught.value) == f"`devices.profiles` = {text!r} is not allowed: {allowed}"


def test_there_is_a_device_for_each_client() -> None:
    with pytest.raises(
        SettingError,
        match=r"^`devices.profiles` = \['1', '2'\] is not allowed: paper7, or a list of 3 devices",
    ):
        Config.from_flat({"devices.profiles": ["1", "2"], "num_supernodes": 3})


def test_devices_slow_down_from_a_round_on_until_another_is_named() -> None:
    texts = ("0:8:3", "1:2.5:1", "0:1:5")
    expected = {1: (1.0, 2.5), 2: (1.0, 2.5), 3: (8.0, 2.5), 4: (8.0, 2.5), 5: (1.0, 2.5), 9: (1.0, 2.5)}
    assert {round_: parse_slowdowns(texts, 2, round_) for round_ in expected} == expected
    assert parse_slowdowns((), 3, 1) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    "text", ["2:8:3", "-1:8:3", "0:0:3", "0:-1:3", "0:inf:3", "0:nan:3", "0:8:0", "0:8", "a:8:3", ""]
)
def test_what_is_no_slowdown_is_refused(text: str) -> None:
    with pytest.raises(SettingError) as caught:
        Config.from_flat({"strategy": "huscf_gan", "devices.slowdowns": ["0:2:1", text], "num_supernodes": 2})
    allowed = "client:times:round: a client from 0 to 1, times above 0, a round from 1"
    assert str(caught.value) == f"`devices.slowdowns` = {text!r} is not allowed: {allowed}"
