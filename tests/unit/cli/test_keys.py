"""`ostler key` and `ostler-control key-*`, against the real API: rotated, proved, backed up, lost, brought back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import structlog
from click.testing import CliRunner, Result
from ostler.client import profile
from ostler_common import pki, server
from ostler_common.identity import Identity, Kind
from ostler_common.tls import server_credentials
from ostler_control import volumes
from ostler_control.api import work
from ostler_control.caller import Caller, Role
from ostler_control.cli.main import root
from ostler_control.keys import Keyring, key_file, open_provider
from ostler_control.main import main as control_command
from ostler_control.models import Event, Passphrase, Volume

from tests import databases
from tests.fakes.certificates import ThrowawayCa
from tests.sites import MIB, Site, outcome, site_at_work

WORD = "correct horse battery"


class Cli:
    """`ostler` as an admin of the site's control plane, and `ostler-control` beside it."""

    def __init__(self, path: Path, site: Site) -> None:
        self.path, self.site = path, site

    def run(self, line: str, code: int = 0, input: str | None = None) -> Result:
        environment = {"OSTLER_PROFILE": str(self.path), "TZ": "UTC", "COLUMNS": "120", "NO_COLOR": "1"}
        result = CliRunner(env=environment).invoke(root, line.split(), input=input, prog_name="ostler")
        assert result.exit_code == code, (result.stdout, result.stderr, result.exception)
        return result

    def json(self, line: str) -> Any:
        return json.loads(self.run(f"{line} -o json").stdout)

    def control(self, line: str, code: int = 0, input: str | bytes | None = None) -> Result:
        environment = {"OSTLER_CONTROL_STATE_DIR": str(self.site.state_dir)}
        result = CliRunner(env=environment).invoke(control_command, line.split(), input=input)
        assert result.exit_code == code, (result.stdout, result.stderr, result.exception)
        return result


@pytest.fixture(scope="module")
def cli(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cli]:
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    directory = tmp_path_factory.mktemp("keys-cli")
    with databases.bound(f"sqlite:///{directory}/ostler.sqlite") as url, site_at_work(url, directory) as (site, engine):
        for name in ("one", "two"):
            wanted = volumes.NewVolume(name, site.account, site.disks["encrypted"], 4 * MIB)
            made = site.record(partial(volumes.create, wanted, "alice", site.keys))
            assert outcome(engine, made) == ("succeeded", "")
        issuer = ThrowawayCa(directory)
        admin = Caller(Role.ADMIN, "1", "ada", site.account.id)
        running = server.serve(
            "127.0.0.1:0",
            credentials=server_credentials(issuer.issue(Identity(Kind.CONTROL, "c1"))),
            services=work.services(engine),
            authorize=lambda peer, method: admin,
            workers=8,
        )
        user = issuer.issue(Identity(Kind.USER, "ada"))
        path = directory / "profile.toml"
        text = profile.text(f"127.0.0.1:{running.port}", user.trust.name, user.certificate.name, user.key.name)
        pki.write_private(path, text.encode())
        yield Cli(path, site)
        running.stop(0).wait()
    structlog.reset_defaults()


def test_rotated_and_the_old_version_deleted(cli: Cli) -> None:
    [first] = cli.json("key list")
    assert (first["state"], first["passphrases"], first["present"]) == ("CURRENT", 2, True)
    assert "would be accepted" in cli.run("key rotate --dry-run").stdout
    assert "current" in cli.run("key rotate").stdout
    new, old = cli.json("key list")
    assert (new["state"], new["passphrases"], old["name"], old["state"], old["passphrases"]) == (
        "CURRENT", 2, first["name"], "OLD", 0,
    )  # fmt: skip
    assert "in use" in cli.run(f"key delete {new['name']} --yes", code=6).stderr
    assert cli.run(f"key delete {old['name']} --yes").stdout == f"key {old['name']} is deleted\n"
    assert cli.run("key list -o name").stdout == new["name"] + "\n"


def test_what_does_not_open_is_named(cli: Cli) -> None:
    assert cli.run("key verify").stderr == "2 of 2 passphrases open\n"
    spoilt: Any = Volume.get(Volume.name == "two")
    before = Passphrase.get_by_id(spoilt.passphrase_id).sealed
    Passphrase.update(sealed=b"x" * 60).where(Passphrase.id == spoilt.passphrase_id).execute()
    found = cli.run("key verify", code=1)
    assert "1 of 2 passphrases open" in found.stderr
    assert [word for word in found.stdout.splitlines()[1].split() if word in ("two", "volume", "SEAL_BROKEN")] == [
        "two", "volume", "SEAL_BROKEN",
    ]  # fmt: skip
    Passphrase.update(sealed=before).where(Passphrase.id == spoilt.passphrase_id).execute()


def test_backed_up_lost_and_brought_back(cli: Cli, tmp_path: Path) -> None:
    kek, file = cli.site.state_dir / "kek", tmp_path / "backup.json"
    assert "at least" in cli.run(f"key backup {file}", code=2, input="short\nshort\n").stderr
    assert not file.exists()
    cli.run(f"key backup {file}", input=f"{WORD}\n{WORD}\n")
    assert file.stat().st_mode & 0o777 == 0o600
    for line in kek.read_bytes().split():
        assert line not in file.read_bytes()
    assert WORD.encode() not in file.read_bytes()
    assert "already exists" in cli.run(f"key backup {file}", code=2).stderr
    event = Event.get(Event.type == "key.backup")
    assert (event.actor, event.outcome, event.account_id) == ("ada", "succeeded", "")

    assert cli.run(f"key verify {file}", input=f"{WORD}\n").stderr.endswith("2 of 2 passphrases open\n")
    assert "BACKUP_NOT_OPENED" in cli.run(f"key verify {file}", code=2, input="another word\n").stderr

    lost = kek.read_bytes()
    kek.unlink()
    assert "cannot decrypt" in cli.control(f"key-restore {file}", code=1, input="another word\n").stderr
    assert not kek.exists()
    assert "1 key restored" in cli.control(f"key-restore {file}", input=f"{WORD}\n").stdout
    assert kek.read_bytes() == lost
    assert "0 keys restored" in cli.control(f"key-restore {file}", input=f"{WORD}\n").stdout
    keys = Keyring(open_provider(cli.site.state_dir))
    assert {len(keys.open(volume).reveal()) for volume in Volume.select()} == {44}

    # A backup of before a rotation opens nothing of after it, and says so.
    cli.run("key rotate")
    found = cli.run(f"key verify {file} -o json", code=1, input=f"{WORD}\n")
    assert {failure["reason"] for failure in json.loads(found.stdout)["failures"]} == {"KEK_MISSING"}


def test_an_unattended_backup_reads_its_passphrase_from_a_file(cli: Cli, tmp_path: Path) -> None:
    file, passphrase = tmp_path / "backup.json", tmp_path / "passphrase"
    passphrase.write_text("short\n")
    assert "at least" in cli.run(f"key backup {file} --passphrase-file {passphrase}", code=2).stderr
    assert not file.exists()
    passphrase.write_text(f"{WORD}\nthe second line is not read\n")
    cli.run(f"key backup {file} --passphrase-file {passphrase}")
    assert "passphrases open" in cli.run(f"key verify {file} --passphrase-file {passphrase}").stderr
    assert "passphrases open" in cli.run(f"key verify {file}", input=f"{WORD}\n").stderr


def test_a_backup_that_was_changed_does_not_open(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "backup.json"
    cli.run(f"key backup {file}", input=f"{WORD}\n{WORD}\n")
    text = json.loads(file.read_text())
    for change, reason in (
        ({"time": "2020-01-01T00:00:00Z"}, "BACKUP_NOT_OPENED"),
        ({"format": "other"}, "BACKUP_INVALID"),
        ({"scrypt": {**text["scrypt"], "n": 1 << 40}}, "BACKUP_INVALID"),
        ({"sealed": 5}, "BACKUP_INVALID"),
    ):
        file.write_text(json.dumps({**text, **change}))
        assert reason in cli.run(f"key verify {file}", code=2, input=f"{WORD}\n").stderr, change


def test_an_operator_adds_a_version(cli: Cli) -> None:
    kek = cli.site.state_dir / "kek"
    before = kek.read_bytes()
    made = cli.control("key-add -", input=before)
    assert made.stdout_bytes.endswith(before)
    assert [key.id for key in key_file.parse(made.stdout_bytes, "f")][1:] == [k.id for k in key_file.read(kek)]
    assert "new version: file:" in cli.control("key-add").stderr
    added = key_file.read(kek)[0].id
    assert [key["name"] for key in cli.json("key list") if key["state"] == "UNUSED"] == [added]
    assert added in cli.run("key rotate -o name").stdout
    assert cli.json("key list")[0]["state"] == "CURRENT"


def test_the_wrapping_key_is_not_shown_in_messages() -> None:
    from ostler.control.v1 import key_pb2

    for message in (key_pb2.BackupKeysRequest, key_pb2.VerifyKeysRequest):
        [field] = [field for field in message.DESCRIPTOR.fields if field.GetOptions().debug_redact]
        assert field.name == "wrapping_key"
