"""What clients run on: how fast they compute and send, and how much memory they have, by name."""

from __future__ import annotations

import math
from dataclasses import dataclass

from collafuse_flwr.core.errors import SettingError
from collafuse_flwr.core.fields import Texts, plain


@dataclass(frozen=True)
class Device:
    """A machine: floating-point operations and bytes of its link in a second, and bytes of memory."""

    name: str
    flops: float
    link: float
    memory: float = math.inf

    def seconds(self, flops: float, num_bytes: float) -> float:
        """How long it computes and transfers, one after the other."""
        return flops / self.flops + num_bytes / self.link


#: The devices of HuSCF-GAN's experiments: clock in MHz, operations in a cycle, MB/s of the link.
_PAPER = {
    "1": (480, 1, 50),
    "2": (6000, 8, 150),
    "3": (15600, 8, 1000),
    "4": (5720, 8, 300),
    "5": (4000, 4, 50),
    "6": (9000, 4, 100),
    "7": (12000, 10, 800),
}
PROFILES = {name: Device(name, clock * 1e6 * each, link * 1e6) for name, (clock, each, link) in _PAPER.items()}
SETTING = "devices.profiles"
#: Several devices under one name, dealt to the clients in turn.
FLEETS = {"paper7": tuple(PROFILES.values())}


def parse_devices(names: Texts, num_clients: int) -> tuple[Device, ...]:
    """The device of every client: those of a fleet in turn, or one each.

        parse_devices(("paper7",), 80)
        parse_devices(("1", "2", "250:12.5:4000"), 3)   # the last: 250 GFLOP/s, 12.5 MB/s, 4000 MB of memory

    Raises:
        SettingError: a device is unknown, a number is not above 0, or there is not one device for each client.
    """
    if len(names) == 1 and names[0] in FLEETS:
        fleet = FLEETS[names[0]]
        return tuple(fleet[client % len(fleet)] for client in range(num_clients))
    devices = tuple(_device(name) for name in names)
    if len(devices) != num_clients:
        raise SettingError(SETTING, plain(names), f"{_fleets()}, or a list of {num_clients} devices, one per client")
    return devices


def parse_slowdowns(texts: Texts, num_clients: int, round_: int | None = None) -> tuple[float, ...]:
    """How many times as long as its device each client takes in a round (without one, from the last text on).

        parse_slowdowns(("0:8:3", "0:1:5"), 2, 4)   # (8.0, 1.0): client 0 takes eight times as long in rounds 3 and 4

    Raises:
        SettingError: a text is not client:times:round, with a client that there is, times above 0 and a round from 1.
    """
    times = [1.0] * num_clients
    for text in texts:
        try:
            client, factor, first = text.split(":")
            own = int(client), float(factor), int(first)
        except ValueError:
            own = (-1, 0.0, 0)
        if not (0 <= own[0] < num_clients and 0 < own[1] < math.inf and own[2] >= 1):
            allowed = f"client:times:round: a client from 0 to {num_clients - 1}, times above 0, a round from 1"
            raise SettingError("devices.slowdowns", text, allowed)
        if round_ is None or own[2] <= round_:
            times[own[0]] = own[1]
    return tuple(times)


def _device(part: str) -> Device:
    """A device by its name, or by its numbers."""
    if part in PROFILES:
        return PROFILES[part]
    try:
        numbers = [float(number) for number in part.split(":")]
    except ValueError:
        numbers = []
    if len(numbers) not in (2, 3) or not all(0 < number < math.inf for number in numbers):
        allowed = (
            f"{_fleets()}, or for each client one of {', '.join(PROFILES)} or GFLOP/s:MB/s[:MB of memory], above 0"
        )
        raise SettingError(SETTING, part, allowed)
    gflops, link, *memory = numbers
    return Device(part, gflops * 1e9, link * 1e6, memory[0] * 1e6 if memory else math.inf)


def _fleets() -> str:
    return ", ".join(FLEETS)
