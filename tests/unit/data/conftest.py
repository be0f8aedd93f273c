import socket

import pytest


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise AssertionError("data sets are never downloaded")

    monkeypatch.setattr(socket.socket, "connect", refuse)
