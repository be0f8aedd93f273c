from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import cast

import pytest
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from collafuse_flwr.core.errors import DataError, RunFailed
from simulations.runners.server_thread import ServerThread


def server(main: Callable[[], None]) -> ServerThread:
    app = ServerApp()

    @app.main()
    def call(grid: Grid, context: Context) -> None:
        main()

    return ServerThread(app)


def start(server: ServerThread) -> threading.Thread:
    thread = threading.Thread(target=server, args=(cast(Grid, None), cast(Context, None)), daemon=True)
    thread.start()
    return thread


def refuse() -> None:
    raise DataError("no such folder")


def leave() -> None:
    raise SystemExit


def wait() -> None:
    while True:
        time.sleep(0.01)


def test_a_server_that_finished_is_fine() -> None:
    finished = server(lambda: None)
    start(finished).join(5)
    finished.stop()
    finished.check()
    assert not finished.failed


@pytest.mark.parametrize(
    ("main", "kind", "message"),
    [(refuse, DataError, "^no such folder$"), (leave, RunFailed, "^the server stopped with SystemExit$")],
)
def test_a_failed_server_raises_its_error(main: Callable[[], None], kind: type[Exception], message: str) -> None:
    failed = server(main)
    start(failed).join(5)
    assert failed.failed
    with pytest.raises(kind, match=message):
        failed.check()


def test_a_server_that_waits_for_clients_that_are_gone_is_ended() -> None:
    waiting = server(wait)
    thread = start(waiting)
    time.sleep(0.05)
    waiting.stop()
    assert not thread.is_alive()
    assert not waiting.failed


def test_a_server_that_was_never_called_has_not_finished() -> None:
    never = server(lambda: None)
    never.stop()
    start(never).join(5)
    with pytest.raises(RunFailed, match="did not finish"):
        never.check()
