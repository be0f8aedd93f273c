"""A SuperNode's options are checked before it starts."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import CertificateBuilder, Name, NameAttribute
from cryptography.x509.oid import NameOID

from collafuse_flwr.core.errors import SettingError, UserError
from collafuse_flwr.data.codec import codec_digest
from collafuse_flwr.wire.codec import ClientError
from simulations.check_node import check
from tests.adversarial.node import Node
from tests.codecs import write_codec


def config(folder: Path, **changed: str) -> list[str]:
    """The settings of a node, as typed; an empty value leaves one out."""
    (folder / "images").mkdir(exist_ok=True)
    own = {"partition-id": "0", "data-path": f'"{folder}/images"', "state-path": f'"{folder}/state"'}
    own |= {name.replace("_", "-"): value for name, value in changed.items()}
    return ["--node-config", " ".join(f"{name}={value}" for name, value in own.items() if value)]


def test_the_state_folder_is_made_for_this_user_alone(tmp_path: Path) -> None:
    check(config(tmp_path))
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700
    check(config(tmp_path))


@pytest.mark.parametrize(
    ("changed", "refused"),
    [
        ({"partition_id": ""}, "`partition-id` = None"),
        ({"partition_id": "-1"}, "`partition-id` = -1"),
        ({"data_path": '"/nowhere"'}, "`data-path` = '/nowhere'"),
        ({"data_path": "/nowhere"}, "`--node-config` = "),
        ({"state_path": '"state"'}, "`state-path` = 'state'"),
        ({"state_path": '"/dev/null/state"'}, "`state-path` = '/dev/null/state'"),
        ({"policy": '"/nowhere"'}, "the policy /nowhere cannot be read"),
        ({"polcy": '"/nowhere"'}, "`polcy` = '/nowhere'"),
    ],
)
def test_a_mistake_names_the_setting(tmp_path: Path, changed: dict[str, str], refused: str) -> None:
    with pytest.raises(UserError, match=refused):
        check(config(tmp_path, **changed))


def test_a_folder_that_others_may_enter_or_that_lost_its_secret_is_refused(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir(mode=0o755)
    with pytest.raises(SettingError, match="chmod 700"):
        check(config(tmp_path))
    state.chmod(0o700)
    (state / "ledger.jsonl").touch()
    with pytest.raises(UserError, match="restore both"):
        check(config(tmp_path))


def test_a_client_that_has_only_refused_so_far_starts_again(tmp_path: Path) -> None:
    """A request beyond its policy is the first that it may get: it is on the ledger before there is a secret."""
    client = Node(tmp_path, "min_cut_ratio = 0.6\n")
    assert isinstance(client.train(cut_ratio=0.4), ClientError)
    assert (client.state / "ledger.jsonl").is_file()
    assert not (client.state / "secret").exists()
    client.state.chmod(0o700)
    check(config(tmp_path))
    assert not isinstance(client.train(cut_ratio=0.7), ClientError)
    (client.state / "secret").unlink()
    with pytest.raises(UserError, match="restore both"):
        check(config(tmp_path))


def test_a_policy_with_a_mistake_is_refused(tmp_path: Path) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text("max_release = 1\n")
    with pytest.raises(SettingError, match=r"policy\.max_release`"):
        check(config(tmp_path, policy=f'"{policy}"'))
    policy.write_text("max_releases = 0\n")
    check(config(tmp_path, policy=f'"{policy}"'))


def test_a_codec_is_the_one_that_the_policy_pins(tmp_path: Path) -> None:
    codec, policy = write_codec(tmp_path / "codec"), tmp_path / "policy.toml"
    given = config(tmp_path, codec_path=f'"{codec}"', policy=f'"{policy}"')
    policy.write_text("max_releases = 1\n")
    with pytest.raises(SettingError, match=rf"^`codec` = 'sha256:' .*that of the codec in .*{codec_digest(codec)}"):
        check(given)
    policy.write_text(f'codec = "{codec_digest(codec)}"\n')
    check(given)
    (codec / "config.json").unlink()
    with pytest.raises(SettingError, match=r"^`codec` = .*a folder on this machine"):
        check(given)


def make_key(path: Path, kind: str, passphrase: str = "") -> Path:
    subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", passphrase, "-f", str(path)], check=True)
    return path


def make_certificate(path: Path, days: int) -> Path:
    """A certificate that expires in so many days, or has."""
    key, name = generate_private_key(SECP384R1()), Name([NameAttribute(NameOID.COMMON_NAME, "CA")])
    end = datetime.now(UTC) + timedelta(days=days)
    made = CertificateBuilder(name, name, key.public_key(), 1, end - timedelta(days=365), end).sign(key, SHA384())
    path.write_bytes(made.public_bytes(Encoding.PEM))
    return path


def test_a_key_is_one_of_an_elliptic_curve_without_passphrase(tmp_path: Path) -> None:
    good = make_key(tmp_path / "good", "ecdsa")
    check([*config(tmp_path), "--auth-supernode-private-key", str(good)])
    others = [make_key(tmp_path / "ed", "ed25519"), make_key(tmp_path / "pass", "ecdsa", "secret"), tmp_path / "none"]
    for path in others:
        with pytest.raises(SettingError, match=r"^`--auth-supernode-private-key` = "):
            check([*config(tmp_path), "--auth-supernode-private-key", str(path)])


def test_a_certificate_is_there_and_has_not_expired(tmp_path: Path) -> None:
    check([*config(tmp_path), "--root-certificates", str(make_certificate(tmp_path / "ca", 1))])
    for path, said in ((make_certificate(tmp_path / "old", -1), "expired"), (tmp_path / "none", "PEM")):
        with pytest.raises(SettingError, match=f"^`--root-certificates` = .*{said}"):
            check([*config(tmp_path), "--root-certificates", str(path)])


@pytest.mark.parametrize("text", ["", "{}", "[]", "fpk_a: 1", 'fpk_a: "ecdsa-sha2-nistp384 AAAA"', "fpk_a: '"])
def test_entities_that_name_nobody_are_refused(tmp_path: Path, text: str) -> None:
    """Flower itself trusts everybody where the file has an empty mapping."""
    trusted = tmp_path / "trusted.yaml"
    trusted.write_text(text)
    with pytest.raises(SettingError, match=r"^`--trusted-entities` = "):
        check([*config(tmp_path), "--trusted-entities", str(trusted)])
    public = make_key(tmp_path / "reviewer", "ed25519").with_suffix(".pub").read_text().strip()
    trusted.write_text(f'fpk_a: "{public}"\n')
    check([*config(tmp_path), "--trusted-entities", str(trusted)])
