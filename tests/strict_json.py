"""JSON as a reader takes it that knows no nan and no infinity."""

from __future__ import annotations

import json
import math
from typing import Any


def strict(text: str) -> Any:
    """Read JSON, and refuse what is none."""

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


def plain(value: Any) -> Any:
    """The value with null for what JSON does not know."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
