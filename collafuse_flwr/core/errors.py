"""Errors whose message is meant for the person who runs the program."""

from __future__ import annotations

from pathlib import Path


class UserError(Exception):
    """A mistake that the user can correct: one line that names the value given and what is allowed."""


class SettingError(UserError):
    """A setting has a value that is not allowed."""

    def __init__(self, name: str, value: object, allowed: str) -> None:
        """Name the setting, its value and what is allowed."""
        self.name, self.value, self.allowed = name, value, allowed
        super().__init__(f"`{name}` = {value!r} is not allowed: {allowed}")


class RunFailed(UserError):
    """The run did not complete, and no setting is to blame; `__cause__` is the error behind it if that is at hand."""


class DataError(UserError):
    """A data set is missing, damaged, or too small for the settings."""


class DamagedError(UserError):
    """A file is not as it was written."""

    def __init__(self, path: Path) -> None:
        """Name the file."""
        self.path = path
        super().__init__(f"{path} is damaged: its checksum is another")


class UploadError(UserError):
    """A message from a client does not fit the schema, or its content is out of range."""


class SecretError(UserError):
    """A client's secret, or its ledger, is damaged."""


class RoundError(UserError):
    """A message of a round that is over."""


class PolicyError(UserError):
    """A request outside the limits of a data's owner; the line names the limit and holds no data."""
