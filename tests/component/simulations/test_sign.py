"""Apps that are signed, and answered from a folder, are those that Flower's SuperNode verifies."""

from __future__ import annotations

import io
import json
import subprocess
import zipfile
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import load_ssh_public_key
from flwr.supercore.fab import Fab
from flwr.supercore.utils import request_download_link
from flwr.superlink.servicer.control.control_handlers import _format_verification
from flwr.supernode.start_client_internal import _verify_fab
from requests import get

from collafuse_flwr.core.errors import SettingError, UserError
from simulations import superlink
from simulations.app_folder import AppFolder, served, signatures, signatures_of
from simulations.sign import act

PYPROJECT = """
[project]
name = "app"
version = "{version}"
description = ""
license = "Apache-2.0"
[tool.flwr.app]
publisher = "us"
[tool.flwr.app.components]
serverapp = "app:server"
clientapp = "app:client"
"""


def write_app(path: Path, version: str = "1.0.0") -> Path:
    """A file as `flwr build` makes it, as far as its version is read."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("pyproject.toml", PYPROJECT.format(version=version))
    path.write_bytes(content.getvalue())
    return path


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
    return path


def fetched(folder: Path, app_id: str, version: str | None) -> Fab:
    """What a SuperLink has of an app, by its own code."""
    with served(AppFolder(folder)) as address:
        url, rows, _ = request_download_link(app_id, version, f"{address}/hub/fetch-fab", "fab_url")
        assert rows is not None
        return Fab("", get(url, timeout=10).content, _format_verification(rows))


def test_a_signed_app_is_verified_by_flower_and_one_that_was_changed_is_not(
    tmp_path: Path, key: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    app = write_app(tmp_path / "app.fab")
    assert act([f"app={app}", f"key={key}", "id=fpk_us"]) == 0
    name, _, public = capsys.readouterr().out.strip().partition(": ")
    trusted = {name: public.strip('"')}
    load_ssh_public_key(trusted["fpk_us"].encode())
    fab = fetched(tmp_path, "@us/app", "1.0.0")
    assert fab.content == app.read_bytes()
    assert _verify_fab(fab, trusted)
    other = subprocess.run(["ssh-keygen", "-y", "-f", str(key)], capture_output=True, text=True, check=True).stdout
    assert trusted["fpk_us"].split()[:2] == other.split()[:2]
    # Another key of this name, another name, and other bytes.
    assert not _verify_fab(fab, {"fpk_others": trusted["fpk_us"]})
    write_app(app, "1.0.0").write_bytes(app.read_bytes() + b" ")
    assert not _verify_fab(fetched(tmp_path, "@us/app", None), trusted)


def test_signatures_are_added_and_an_app_without_any_is_not_verified(tmp_path: Path, key: Path) -> None:
    app = write_app(tmp_path / "app.fab")
    assert not _verify_fab(fetched(tmp_path, "@us/app", None), {"fpk_us": key.with_suffix(".pub").read_text()})
    for entity in ("fpk_a", "fpk_b", "fpk_a"):
        act([f"app={app}", f"key={key}", f"id={entity}"])
    assert [row["public_key_id"] for row in signatures(app)] == ["fpk_b", "fpk_a"]


def test_the_version_that_is_named_is_answered_and_an_unknown_one_is_refused(tmp_path: Path) -> None:
    write_app(tmp_path / "old.fab", "1.0.0")
    new = write_app(tmp_path / "new.fab", "1.1.0")
    assert AppFolder(tmp_path).find("@us/app", "1.0.0") == tmp_path / "old.fab"
    assert AppFolder(tmp_path).find("@us/app", None) == new
    with pytest.raises(ValueError, match="not found"):
        fetched(tmp_path, "@us/app", "2.0.0")
    with pytest.raises(ValueError, match="not found"):
        fetched(tmp_path, "@them/app", None)
    (tmp_path / "other.fab").write_text("no app")
    with pytest.raises(ValueError, match=r"other\.fab is no file of `flwr build`"):
        fetched(tmp_path, "@us/app", None)


def test_mistakes_are_one_line_and_leave_no_signature(tmp_path: Path, key: Path) -> None:
    app = write_app(tmp_path / "app.fab")
    rsa = tmp_path / "rsa"
    subprocess.run(["ssh-keygen", "-q", "-t", "ecdsa", "-N", "", "-f", str(rsa)], check=True)
    (tmp_path / "text").write_text("no app")
    for given, name in (
        ([f"app={app}", f"key={rsa}", "id=x"], "key"),
        ([f"app={app}", f"key={app}", "id=x"], "key"),
        ([f"app={tmp_path}/text", f"key={key}", "id=x"], "app"),
        ([f"app={app}", f"key={key}"], "id"),
        (["apps=x"], "apps"),
    ):
        with pytest.raises(SettingError, match=f"^`{name}` = "):
            act(given)
    assert not signatures_of(app).exists()
    signatures_of(app).write_text(json.dumps([{"public_key_id": "x"}]))
    with pytest.raises(UserError, match="sign the app again"):
        signatures(app)


def test_a_superlink_without_a_folder_of_apps_does_not_start(capsys: pytest.CaptureFixture[str]) -> None:
    assert superlink.main(["--apps", "/nowhere", "--insecure"]) == 2
    assert capsys.readouterr().err == "error: --apps = /nowhere is not allowed: the folder of signed apps\n"
