"""`ostler pool` and the password of an array: from a file or standard input, never an argument."""

from __future__ import annotations

from pathlib import Path

from ostler.control.v1 import pool_pb2 as pb

from tests.fakes.control import Control
from tests.unit.cli.conftest import Ostler

CREATE = ("pool", "create", "flex", "--type", "powerflex", "--gateway", "flex.example", "--username", "ostler")
WHERE = ("--protection-domain", "pd1", "--storage-pool", "sp1", "--cluster", "web")


def test_a_powerflex_pool(control: Control, ostler: Ostler, tmp_path: Path) -> None:
    ca = tmp_path / "ca.pem"
    ca.write_text("-----BEGIN CERTIFICATE-----\nMIIB\n")
    done = ostler(*CREATE, *WHERE, "--ca-file", str(ca), "--password-file", "-", input="gateway-secret\nmore\n")
    assert done.exit_code == 0, done.output
    [request] = [call for call in control.asked if isinstance(call, pb.CreatePoolRequest)]
    assert (request.type, request.password, request.cluster) == ("powerflex", b"gateway-secret", "web")
    assert dict(request.options) == {
        "gateway": "flex.example",
        "username": "ostler",
        "protection_domain": "pd1",
        "storage_pool": "sp1",
        "ca": ca.read_text(),
    }
    assert "gateway-secret" not in done.output
    assert "MIIB" not in done.output


def test_nobody_is_there_to_type_it(control: Control, ostler: Ostler) -> None:
    refused = ostler(*CREATE, *WHERE)
    assert refused.exit_code == 2
    assert "--password-file" in refused.output
    assert not control.asked


def test_another_password(control: Control, ostler: Ostler, tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("new-secret\n")
    done = ostler("pool", "set-password", "flex", "--password-file", str(file))
    assert done.exit_code == 0, done.output
    [request] = [call for call in control.asked if isinstance(call, pb.SetPoolPasswordRequest)]
    assert (request.pool, request.password) == ("flex", b"new-secret")
    assert "new-secret" not in done.output
