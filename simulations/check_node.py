"""Check the options of a SuperNode: `python -m simulations.check_node OPTIONS`.

Of the options of `python -m simulations.supernode`, which makes this check before it starts, it looks at --node-config,
--root-certificates, --auth-supernode-private-key and --trusted-entities. A mistake would else show in the log of the
client's first message only, and to the operator as a client that fails; and a `--trusted-entities` that lists nobody
would have Flower trust everybody.
"""

from __future__ import annotations

import argparse
import os
import stat
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import click
import yaml
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_ssh_private_key, load_ssh_public_key
from cryptography.x509 import load_pem_x509_certificates
from flwr.common.config import parse_config_args

from collafuse_flwr.client.policy import Policy
from collafuse_flwr.core.errors import SettingError, UserError
from collafuse_flwr.data.codec import SHA256, open_codec
from collafuse_flwr.privacy.ledger import Ledger
from collafuse_flwr.runs.run_layout import ClientLayout
from simulations.cli import command

NAMES = ("partition-id", "data-path", "state-path", "policy", "codec-path")
#: What a file that is no key or certificate makes its reader raise.
UNREADABLE = (OSError, ValueError, TypeError, AttributeError, UnsupportedAlgorithm, yaml.YAMLError)


def check(options: list[str]) -> None:
    """Hold a SuperNode's options to what it needs; its state folder is made if there is none.

    Raises:
        UserError: one is missing, misspelt or wrong, or a file or folder is.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in ("node-config", "root-certificates", "auth-supernode-private-key", "trusted-entities"):
        parser.add_argument(f"--{name}")
    node, _ = parser.parse_known_args(options)
    if node.root_certificates is not None:
        _check_certificates(node.root_certificates)
    if node.auth_supernode_private_key is not None:
        _check_key(node.auth_supernode_private_key)
    if node.trusted_entities is not None:
        _check_trusted(node.trusted_entities)
    _check_node(_parsed(node.node_config))


def _check_certificates(path: str) -> None:
    try:
        expire = [own.not_valid_after_utc for own in load_pem_x509_certificates(Path(path).read_bytes())]
    except UNREADABLE:
        raise SettingError("--root-certificates", path, "a certificate in PEM that this user may read") from None
    if max(expire) < datetime.now(UTC):
        raise SettingError("--root-certificates", path, f"one that has not expired, as this did on {max(expire):%F}")


def _check_key(path: str) -> None:
    try:
        key = load_ssh_private_key(Path(path).read_bytes(), None)
    except UNREADABLE:
        key = None
    if not isinstance(key, EllipticCurvePrivateKey):
        allowed = "a private key without passphrase that this user may read, as `ssh-keygen -t ecdsa -b 384` makes"
        raise SettingError("--auth-supernode-private-key", path, allowed)


def _check_trusted(path: str) -> None:
    try:
        keys = [load_ssh_public_key(text.encode()) for text in yaml.safe_load(Path(path).read_text()).values()]
    except UNREADABLE:
        keys = []
    if not keys or not all(isinstance(key, Ed25519PublicKey) for key in keys):
        allowed = 'a file that this user may read, with one reviewer or more: fpk_NAME: "ssh-ed25519 ..."'
        raise SettingError("--trusted-entities", path, allowed)


def _parsed(node_config: str | None) -> Mapping[str, object]:
    try:
        return parse_config_args([node_config] if node_config else None)
    except click.ClickException:
        allowed = 'name=value, text in double quotes: state-path="/x"'
        raise SettingError("--node-config", node_config, allowed) from None


def _check_node(node_config: Mapping[str, object]) -> None:
    if unknown := node_config.keys() - set(NAMES):
        raise SettingError(min(unknown), node_config[min(unknown)], f"one of {', '.join(NAMES)}")
    number = node_config.get("partition-id")
    if not isinstance(number, int) or isinstance(number, bool) or number < 0:
        raise SettingError("partition-id", number, "the number of this client in --node-config, from 0")
    data = node_config.get("data-path")
    if not isinstance(data, str) or not os.access(data, os.R_OK):
        raise SettingError("data-path", data, "the images of this client, which this user may read")
    _check_state(node_config.get("state-path"))
    policy = Policy.load(Path(str(node_config["policy"]))) if "policy" in node_config else Policy()
    if "codec-path" in node_config:
        # As a run would name it whose codec the policy lets in.
        open_codec(f"{SHA256}{policy.codec}", str(node_config["codec-path"]))


def _check_state(path: object) -> None:
    if not isinstance(path, str) or not Path(path).is_absolute():
        raise SettingError("state-path", path, "an absolute path: a folder of this client alone")
    folder = Path(path)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise SettingError("state-path", path, f"a folder that this user may make: {error.strerror}") from None
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        raise SettingError("state-path", path, "a folder that this user may write")
    if folder.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise SettingError("state-path", path, "a folder that nobody else may enter (chmod 700)")
    # A ledger without the secret of its images would let them leave once more, with new noise.
    layout = ClientLayout(folder)
    if layout.ledger.exists() and not layout.secret.exists() and not _only_refused(layout):
        raise UserError(f"{layout.ledger} is there without {layout.secret.name}: restore both from one backup")


def _only_refused(layout: ClientLayout) -> bool:
    """Whether a client has done nothing yet but refuse requests, for which it needs no secret."""
    return {entry["kind"] for entry in Ledger(layout.ledger, "").entries} == {"refusal"}


def act(arguments: list[str]) -> int:
    """Check the options, and return the exit status."""
    check(arguments)
    return 0


main = command(act, usage=__doc__ or "")

if __name__ == "__main__":
    sys.exit(main())
