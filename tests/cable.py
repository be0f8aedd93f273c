"""A network cable that can be pulled, and tapped: what goes through a port of this machine to another one."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

CHUNK = 1 << 16


class Cable:
    """Connections to `address` that are forwarded to `target`, until they are cut.

    Where it is `tapped`, `captures` has what went to the target, one after the other of its connections.
    """

    def __init__(self, target: str, *, tapped: bool = False) -> None:
        host, port = target.rsplit(":", 1)
        self.target = host, int(port)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.listener.getsockname()[1]}"
        self.tapped, self.captures = tapped, list[bytearray]()
        self.whole, self.sockets, self.lock = True, set[socket.socket](), threading.Lock()
        self.threads = [threading.Thread(target=self._accept, daemon=True)]
        self.threads[0].start()

    def cut(self) -> None:
        """End all connections; new ones end at once."""
        with self.lock:
            self.whole = False
            for own in self.sockets:
                with suppress(OSError):
                    own.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        """Let new connections through."""
        self.whole = True

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self.listener.accept()
                pair = threading.Thread(target=self._connect, args=(near,), daemon=True)
                self.threads.append(pair)
                pair.start()

    def _connect(self, near: socket.socket) -> None:
        with suppress(OSError), near, socket.create_connection(self.target) as far:
            with self.lock:
                if not self.whole:
                    return
                self.sockets |= {near, far}
            capture = bytearray() if self.tapped else None
            if capture is not None:
                self.captures.append(capture)
            back = threading.Thread(target=self._forward, args=(far, near), daemon=True)
            back.start()
            self._forward(near, far, capture)
            back.join()
            with self.lock:
                self.sockets -= {near, far}

    def _forward(self, source: socket.socket, to: socket.socket, capture: bytearray | None = None) -> None:
        with suppress(OSError):
            while data := source.recv(CHUNK):
                if capture is not None:
                    capture += data
                to.sendall(data)
        for own in (source, to):
            with suppress(OSError):
                own.shutdown(socket.SHUT_RDWR)


@contextmanager
def cable(target: str, *, tapped: bool = False) -> Iterator[Cable]:
    """A cable to `target`, as host:port."""
    own = Cable(target, tapped=tapped)
    try:
        yield own
    finally:
        own.listener.shutdown(socket.SHUT_RDWR)
        own.threads[0].join()
        own.listener.close()
        own.cut()
        for pair in own.threads:
            pair.join()
