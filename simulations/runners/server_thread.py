"""The ServerApp in the thread that Flower's simulation gives it: its errors kept, its end under control."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable

from flwr.app import Context
from flwr.serverapp import Grid

from collafuse_flwr.core.errors import RunFailed
from simulations.runners.result import raise_failure

#: Seconds to wait for an interrupted server.
PATIENCE = 10.0


class ServerThread:
    """Stands in for a ServerApp; Flower swallows some of its errors, and waits forever for it when clients fail."""

    def __init__(self, app: Callable[[Grid, Context], None]) -> None:
        self._app = app
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._finished = self._stopped = False

    def __call__(self, grid: Grid, context: Context) -> None:
        """Run the ServerApp and remember how it ended."""
        self._thread = threading.current_thread()
        try:
            if not self._stopped:
                self._app(grid, context)
                self._finished = True
        except BaseException as error:
            self._error = error

    def stop(self) -> None:
        """End the ServerApp if it still runs, wherever it is: it would go on asking clients that are gone."""
        self._stopped = True
        thread = self._thread
        if thread is None or not thread.is_alive() or self._finished or self._error:
            return
        # SystemExit ends a thread without a word, also where Flower's own code is running.
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(SystemExit))
        thread.join(PATIENCE)

    @property
    def failed(self) -> bool:
        """Whether the ServerApp raised an error by itself."""
        return self._error is not None and not self._stopped

    def check(self) -> None:
        """Return if the ServerApp finished.

        Raises:
            UserError: what it raised, or `RunFailed` from any other error.
        """
        if self._error is not None:
            raise_failure(self._error)
        if not self._finished:
            raise RunFailed("the server did not finish")
