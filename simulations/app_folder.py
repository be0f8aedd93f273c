"""A folder of signed apps, which a SuperLink runs as it would those of Flower Hub.

A SuperLink that is to run `@publisher/name==version` asks Flower Hub for the app and its signatures, and hands both to
the SuperNodes, which check them (`--trusted-entities`). Here a folder of files of `flwr build` answers in its place.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote
from zipfile import BadZipFile

from flwr.common.config import get_fab_config, get_metadata_from_config

from collafuse_flwr.core.errors import UserError


def signatures_of(app: Path) -> Path:
    """The file that holds the signatures of an app."""
    return app.with_name(f"{app.name}.signatures.json")


def signatures(app: Path) -> list[dict[str, Any]]:
    """The signatures of an app, of which there may be none.

    Raises:
        UserError: the file holds something else.
    """
    path = signatures_of(app)
    try:
        rows: list[dict[str, Any]] = json.loads(path.read_text()) if path.exists() else []
        for row in rows:
            _ = row["public_key_id"], row["signature"], row["signed_at"]
    except (ValueError, TypeError, KeyError):
        raise UserError(f"{path} holds no signatures: sign the app again") from None
    return rows


class AppFolder:
    """The apps that lie in a folder, read anew at every question."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def find(self, app_id: str, version: str | None) -> Path | None:
        """The file of an app `@publisher/name`, of a version or of any: the one that was put there last.

        Raises:
            UserError: a file is no app.
        """
        fitting = []
        for path in self.folder.glob("*.fab"):
            try:
                fab_id, fab_version = get_metadata_from_config(get_fab_config(path.read_bytes()))
            except (OSError, ValueError, KeyError, BadZipFile):
                raise UserError(f"{path} is no file of `flwr build`, or cannot be read") from None
            if f"@{fab_id}" == app_id and version in (None, fab_version):
                fitting.append(path)
        return max(fitting, key=lambda path: path.stat().st_mtime_ns, default=None)


@contextmanager
def served(folder: AppFolder) -> Iterator[str]:
    """Answer on a port of this machine as Flower Hub would; gives the address for FLWR_SUPERGRID_API_URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            wanted = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            try:
                app = folder.find(wanted["app_id"], wanted["app_version"])
                rows = signatures(app) if app else []
            except UserError as error:
                print(f"error: {error}", file=sys.stderr, flush=True)
                self._answer(500, str(error).encode())
                return
            if app is None:
                print(
                    f"error: {folder.folder} has no app {wanted['app_id']} {wanted['app_version']}",
                    file=sys.stderr,
                    flush=True,
                )
                self._answer(404, b"{}")
                return
            answer = {"fab_url": f"{address}/apps/{quote(app.name)}", "verifications": rows}
            self._answer(200, json.dumps(answer).encode())

        def do_GET(self) -> None:
            app = folder.folder / Path(unquote(self.path)).name
            if app.suffix == ".fab" and app.is_file():
                self._answer(200, app.read_bytes())
            else:
                self._answer(404, b"")

        def _answer(self, status: int, content: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing: the SuperLink logs what it asks for."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield address
    finally:
        server.shutdown()
        server.server_close()
