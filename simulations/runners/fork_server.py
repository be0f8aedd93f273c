"""A process that has imported what is slow, and forks for every command: the command starts in no time.

A command is a script of its name in a folder that comes first in PATH. It hands over its arguments, its environment and
its standard streams, and ends as the fork ends. POSIX only.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path

#: A command's side: nothing but the standard library, as starting it is all that is left of the cost.
SCRIPT = """#!{python} -IS
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as connection:
    connection.connect({address!r})
    call = json.dumps([{name!r}, sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
    socket.send_fds(connection, [len(call).to_bytes(8, "little")], [0, 1, 2])
    connection.sendall(call)
    status = connection.recv(1)
sys.exit(status[0] if status else 1)
"""
#: What the command line says of a process that a signal ended.
SIGNALLED = 128


class ForkServer:
    """The server of some commands, by name; each is called in a fork, with `sys.argv` set.

    `folder` is for its socket and the commands' scripts; only this user may enter it.
    """

    def __init__(self, folder: Path, commands: Mapping[str, Callable[[], object]]) -> None:
        self.commands, self.scripts = dict(commands), folder / "bin"
        folder.chmod(0o700)
        address = folder / "socket"
        self.scripts.mkdir()
        for name in self.commands:
            script = self.scripts / name
            script.write_text(SCRIPT.format(python=sys.executable, address=str(address), name=name))
            script.chmod(0o700)
        self._selector = selectors.DefaultSelector()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(address))
        self._listener.listen(128)
        # Signals, the ends of forks among them, end the wait for connections.
        self._wake, self._woken = socket.socketpair()
        self._woken.setblocking(False)
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._wake, selectors.EVENT_READ)
        self._forks: dict[int, socket.socket] = {}

    def run(self, until: Callable[[], bool]) -> None:
        """Serve until `until`, which is looked at after every signal."""
        signal.set_wakeup_fd(self._woken.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        while not until():
            for key, _ in self._selector.select():
                if key.fileobj is self._wake:
                    self._wake.recv(4096)
                elif key.fileobj is self._listener:
                    self._accept()
                else:
                    # Whoever called the command has ended it.
                    self._selector.unregister(key.fileobj)
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(key.data, signal.SIGTERM)
            self._reap()
        signal.set_wakeup_fd(-1)
        for pid in self._forks:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)

    def _accept(self) -> None:
        connection, _ = self._listener.accept()
        try:
            header, streams, _, _ = socket.recv_fds(connection, 8, 3)
            with connection.makefile("rb") as file:
                call = json.loads(file.read(int.from_bytes(header, "little")))
        except (OSError, ValueError):
            # The command was ended while it called.
            connection.close()
            return
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            self._become(connection, streams, *call)
        for stream in streams:
            os.close(stream)
        self._forks[pid] = connection
        self._selector.register(connection, selectors.EVENT_READ, pid)

    def _become(
        self, connection: socket.socket, streams: list[int], name: str, argv: list[str], cwd: str, env: dict[str, str]
    ) -> None:
        """In the fork: be the command, and never return."""
        status = 1
        try:
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
                signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
            self._selector.close()
            for own in (self._listener, self._wake, self._woken, connection, *self._forks.values()):
                own.close()
            for target, stream in enumerate(streams):
                os.dup2(stream, target)
                os.close(stream)
            os.chdir(cwd)
            os.environ.clear()
            os.environ.update(env)
            sys.argv = [name, *argv]
            self.commands[name]()
            status = 0
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException:
            traceback.print_exc()
        finally:
            with contextlib.suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            # What this process registered to be done at its end is none of the fork's business.
            os._exit(status)

    def _reap(self) -> None:
        """Send the commands of forks that have ended their exit status."""
        for pid, connection in list(self._forks.items()):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if not ended:
                continue
            code = os.waitstatus_to_exitcode(status)
            del self._forks[pid]
            with contextlib.suppress(KeyError):
                self._selector.unregister(connection)
            with contextlib.suppress(OSError):
                connection.send(bytes([code if code >= 0 else SIGNALLED - code]))
            connection.close()

    def close(self) -> None:
        """Take no more calls."""
        self._selector.close()
        for own in (self._listener, self._wake, self._woken):
            own.close()


def path_with(folder: Path, env: Mapping[str, str]) -> dict[str, str]:
    """An environment in which the commands of a folder come first."""
    return {**env, "PATH": os.pathsep.join([str(folder), env.get("PATH", os.defpath)])}
