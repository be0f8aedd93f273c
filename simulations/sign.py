"""Sign an app that you have read: `python -m simulations.sign app=FILE.fab key=KEY id=fpk_NAME`.

`flwr build` makes FILE.fab; KEY is an OpenSSH private key of kind Ed25519. The signature is added to
FILE.fab.signatures.json, which goes beside FILE.fab into the folder of `python -m simulations.superlink --apps`. What
is printed is the line of the file that SuperNodes are given as `--trusted-entities`.

It is the signature that `flwr app review` sends to Flower Hub, made without it.
"""

from __future__ import annotations

import base64
import hashlib
import sys
import time
from pathlib import Path
from zipfile import BadZipFile

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from flwr.common.config import get_fab_config
from flwr.supercore.primitives.asymmetric_ed25519 import create_message_to_sign, load_private_key, sign_message

from collafuse_flwr.core.atomic_io import write_json
from collafuse_flwr.core.errors import SettingError
from simulations.app_folder import signatures, signatures_of
from simulations.cli import command

DEFAULTS = {"app": "", "key": "", "id": ""}


def sign(app: bytes, key: Ed25519PrivateKey, entity: str, now: int) -> dict[str, str | int]:
    """The signature of an app (SHA-256 of the file, and the time in seconds), as SuperNodes check it."""
    signature = sign_message(key, create_message_to_sign(hashlib.sha256(app).digest(), now))
    return {
        "public_key_id": entity,
        "signature": base64.urlsafe_b64encode(signature).rstrip(b"=").decode(),
        "signed_at": now,
    }


def _read_app(path: str) -> bytes:
    try:
        content = Path(path).read_bytes()
        get_fab_config(content)
    except (OSError, ValueError, KeyError, BadZipFile):
        raise SettingError("app", path, "a file that `flwr build` made") from None
    return content


def _read_key(path: str) -> Ed25519PrivateKey:
    try:
        return load_private_key(Path(path))
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm):
        allowed = "an OpenSSH private key without passphrase, as `ssh-keygen -t ed25519` makes"
        raise SettingError("key", path, allowed) from None


def act(arguments: list[str]) -> int:
    """Add a signature to those of an app, and return the exit status."""
    settings = DEFAULTS | dict(argument.split("=", 1) for argument in arguments if "=" in argument)
    if unknown := settings.keys() - DEFAULTS.keys():
        raise SettingError(min(unknown), settings[min(unknown)], f"one of {', '.join(DEFAULTS)}")
    if not settings["id"]:
        raise SettingError("id", "", "a name of the key, as in --trusted-entities: fpk_NAME")
    app, key, path = _read_app(settings["app"]), _read_key(settings["key"]), Path(settings["app"])
    others = [entry for entry in signatures(path) if entry["public_key_id"] != settings["id"]]
    write_json(signatures_of(path), [*others, sign(app, key, settings["id"], int(time.time()))])
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    print(f'{settings["id"]}: "{public}"')
    return 0


main = command(act, usage=__doc__ or "")

if __name__ == "__main__":
    sys.exit(main())
