"""Settings that say which share of the clients has which value: '0:0.33,2:0.67'."""

from __future__ import annotations

import math

from collafuse_flwr.config.sections import DataConfig
from collafuse_flwr.core.errors import SettingError

#: How such a setting is written.
FORM = "each once and with a share of the clients above 0, as"


def dropped_classes(config: DataConfig) -> dict[int, float]:
    """How many classes are dropped -> share of the clients that drop so many; the shares add up to 1.

    Raises:
        SettingError: it is not what the setting may be.
    """
    allowed = f"whole numbers of classes, {FORM} '0:0.3,2:0.7'"
    shares = _parse("dropped_classes", config.dropped_classes, allowed)
    if not all(count >= 0 and count.is_integer() for count in shares):
        raise SettingError("dropped_classes", config.dropped_classes, allowed)
    return {int(count): share for count, share in shares.items()}


def size_shares(config: DataConfig) -> dict[float, float]:
    """Part of what a client may have -> share of the clients that have as much; the shares add up to 1.

    Raises:
        SettingError: it is not what the setting may be.
    """
    allowed = f"numbers above 0 and at most 1, {FORM} '1:0.7,0.5:0.3'"
    shares = _parse("size_shares", config.size_shares, allowed)
    if not all(0 < part <= 1 for part in shares):
        raise SettingError("size_shares", config.size_shares, allowed)
    return shares


def _parse(name: str, text: str, allowed: str) -> dict[float, float]:
    shares: dict[float, float] = {}
    for part in text.split(","):
        try:
            value, share = map(float, part.split(":"))
        except ValueError:
            raise SettingError(name, text, allowed) from None
        if value in shares or not 0 < share < math.inf:
            raise SettingError(name, text, allowed)
        shares[value] = share
    total = sum(shares.values())
    return {value: share / total for value, share in shares.items()}
