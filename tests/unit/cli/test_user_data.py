"""`ostler userdata`, and what VMs and templates are given."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from ostler.control.v1 import template_pb2, vm_pb2
from ostler.control.v1 import userdata_pb2 as pb

from tests.fakes.control import Control
from tests.unit.cli.completions import complete
from tests.unit.cli.conftest import Ostler

CREATE = ("vm", "create", "web-2", "--template", "debian", "--offering", "small", "--no-wait")
KEYS = "# mine\nssh-ed25519 AAAA ann\n\nssh-rsa BBBB bob\n"


@pytest.fixture
def document(tmp_path: Path) -> Path:
    path = tmp_path / "web.yaml"
    path.write_bytes(b"#cloud-config\n\xff")
    return path


def asked(control: Control, kind: type[Any]) -> Any:
    request = control.asked[-1]
    assert isinstance(request, kind)
    return request


def test_a_document_is_registered_from_a_file(control: Control, ostler: Ostler, document: Path) -> None:
    result = ostler("userdata", "register", "web", str(document), "--variable", "role", "--variable", "zone")
    assert result.exit_code == 0, result.output
    request = asked(control, pb.RegisterUserDataRequest)
    assert (request.name, request.data, list(request.variables)) == ("web", document.read_bytes(), ["role", "zone"])


def test_documents_are_listed_shown_and_deleted(control: Control, ostler: Ostler) -> None:
    assert ostler("userdata", "list").stdout.splitlines()[1].split()[:2] == ["web", "cloud-config"]
    assert "cloud-config" in ostler("userdata", "show", "web").stdout
    assert ostler("userdata", "show", "web", "--content").stdout == "#cloud-config\n"
    shown = ostler("userdata", "show", "web", "--content", "--base64").stdout
    assert base64.b64decode(shown) == b"#cloud-config\n"
    assert ostler("userdata", "delete", "web").exit_code == 2, "it asks"
    assert ostler("userdata", "delete", "web", "--yes").exit_code == 0
    assert asked(control, pb.DeleteUserDataRequest).user_data == "web"


def test_what_a_guest_will_get_is_shown_file_by_file(control: Control, ostler: Ostler, document: Path) -> None:
    result = ostler("userdata", "render", "--template", "debian", "--vm", "web-1", "--user-data-file", str(document))
    assert result.stdout.splitlines() == [
        "--- meta-data",
        "instance-id: a",
        "--- user-data",
        "(3 bytes; print them with --file)",
    ]
    request = asked(control, pb.RenderUserDataRequest)
    assert (request.template, request.vm, request.user_data.data) == ("debian", "web-1", document.read_bytes())
    only = ostler("userdata", "render", "--vm", "web-1", "--file", "user-data")
    assert only.stdout_bytes == b"\x1f\x8b\xff"
    assert not asked(control, pb.RenderUserDataRequest).HasField("user_data")
    listed = json.loads(ostler("userdata", "render", "--vm", "web-1", "-o", "json").stdout)
    assert [file["name"] for file in listed["files"]] == ["meta-data", "user-data"]
    assert ostler("userdata", "render").exit_code == 2


def test_a_vm_is_given_a_document_values_and_keys(
    control: Control, ostler: Ostler, document: Path, tmp_path: Path
) -> None:
    (tmp_path / "keys").write_text(KEYS)
    (tmp_path / "token").write_text("hunter22\n")
    options = ["--user-data-file", str(document), "--variable", "role=a=b", "--variable", f"token=@{tmp_path}/token"]
    assert ostler(*CREATE, *options, "--ssh-key-file", str(tmp_path / "keys")).exit_code == 0
    given = asked(control, vm_pb2.CreateVmRequest).user_data
    assert given.data == document.read_bytes()
    assert (list(given.variables), dict(given.values)) == (["role", "token"], {"role": "a=b", "token": "hunter22"})
    assert list(given.ssh_keys) == ["ssh-ed25519 AAAA ann", "ssh-rsa BBBB bob"]


def test_a_registered_document_declares_its_own_variables(control: Control, ostler: Ostler) -> None:
    assert ostler(*CREATE, "--user-data", "web", "--variable", "role=db").exit_code == 0
    given = asked(control, vm_pb2.CreateVmRequest).user_data
    assert (given.user_data, list(given.variables), dict(given.values)) == ("web", [], {"role": "db"})


def test_a_document_comes_from_standard_input(control: Control, ostler: Ostler) -> None:
    assert ostler(*CREATE, "--user-data-file", "-", input="#!/bin/sh\n").exit_code == 0
    assert asked(control, vm_pb2.CreateVmRequest).user_data.data == b"#!/bin/sh\n"


@pytest.mark.parametrize(
    "options",
    [
        ("--user-data", "web", "--user-data-text", "#!/bin/sh"),
        ("--variable", "role"),
        ("--variable", "role=@/nowhere"),
        ("--user-data-file", "/nowhere"),
    ],
)
def test_options_that_make_no_sense_are_refused(control: Control, ostler: Ostler, options: tuple[str, ...]) -> None:
    assert ostler(*CREATE, *options).exit_code == 2
    assert control.asked == []


def test_a_vm_without_these_options_is_given_nothing(control: Control, ostler: Ostler) -> None:
    assert ostler(*CREATE).exit_code == 0
    assert not asked(control, vm_pb2.CreateVmRequest).HasField("user_data")


def test_a_stopped_vm_gets_other_user_data_or_none(control: Control, ostler: Ostler) -> None:
    assert ostler("vm", "update", "web-1", "--user-data", "web").exit_code == 0
    request = asked(control, vm_pb2.UpdateVmRequest)
    assert (list(request.update_mask.paths), request.user_data.user_data) == (["user_data"], "web")
    assert ostler("vm", "update", "web-1", "--no-user-data").exit_code == 0
    request = asked(control, vm_pb2.UpdateVmRequest)
    assert (list(request.update_mask.paths), request.HasField("user_data")) == (["user_data"], False)
    assert ostler("vm", "update", "web-1", "--no-user-data", "--user-data", "web").exit_code == 2


def test_a_reinstallation_keeps_or_replaces_it(control: Control, ostler: Ostler) -> None:
    assert ostler("vm", "reinstall", "web-1", "--yes", "--no-wait").exit_code == 0
    assert not asked(control, vm_pb2.ReinstallVmRequest).HasField("user_data")
    assert ostler("vm", "reinstall", "web-1", "--yes", "--no-wait", "--user-data", "web").exit_code == 0
    assert asked(control, vm_pb2.ReinstallVmRequest).user_data.user_data == "web"


def test_a_template_links_user_data(control: Control, ostler: Ostler) -> None:
    result = ostler("template", "update", "debian", "--user-data", "web", "--user-data-policy", "append")
    assert result.exit_code == 0, result.output
    assert "APPEND" in result.stdout
    request = asked(control, template_pb2.UpdateTemplateRequest)
    assert (request.user_data, request.user_data_policy) == ("web", pb.USER_DATA_POLICY_APPEND)
    assert ostler("template", "update", "debian").exit_code == 2
    assert ostler("template", "update", "debian", "--no-user-data").exit_code == 0


def test_a_template_gives_a_tpm_or_none(control: Control, ostler: Ostler) -> None:
    for flag, tpm in (("--tpm", True), ("--no-tpm", False)):
        assert ostler("template", "update", "debian", flag).exit_code == 0
        request = asked(control, template_pb2.UpdateTemplateRequest)
        assert (request.tpm, list(request.update_mask.paths)) == (tpm, ["tpm"])


def test_names_of_documents_are_completed(control: Control, profile: Path) -> None:
    assert complete(profile, "ostler userdata show ") == ["web"]


def test_an_interface_has_static_addresses(control: Control, ostler: Ostler) -> None:
    nic = "br0,address=192.0.2.7/24,address=2001:db8::7/64,gateway=192.0.2.1,dns=192.0.2.53"
    assert ostler(*CREATE, "--nic", nic, "--nic", "br1,mac=52:54:00:00:00:01").exit_code == 0
    first, second = asked(control, vm_pb2.CreateVmRequest).nics
    assert list(first.addresses) == ["192.0.2.7/24", "2001:db8::7/64"]
    assert (list(first.gateways), list(first.nameservers)) == (["192.0.2.1"], ["192.0.2.53"])
    assert (second.mac, list(second.addresses)) == ("52:54:00:00:00:01", [])
