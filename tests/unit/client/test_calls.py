"""Connecting, calling, paging; failed calls raise the control plane's own errors."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from ostler.client import NotFoundError, ProfileError, UnavailableError, connect, pages
from ostler.client import profile as profiles
from ostler.client.client import Client
from ostler.control.v1.template_pb2 import UploadTemplateRequest
from ostler.control.v1.vm_pb2 import ConsoleInput, GetVmRequest, ListVmsRequest
from ostler_common import errors
from ostler_common.identity import Identity, Kind

from tests.fakes.certificates import ThrowawayCa
from tests.fakes.control import Control


def test_a_call_answers_with_the_object(control: Control, client: Client) -> None:
    assert client.vms.GetVm(GetVmRequest(vm="web-1")).host_name == "h2"


def test_a_failed_call_raises_the_error_with_its_reason(control: Control, client: Client) -> None:
    with pytest.raises(NotFoundError) as caught:
        client.vms.GetVm(GetVmRequest(vm="db-1"))
    assert (caught.value.reason, caught.value.metadata) == ("VM_NOT_FOUND", {"vm": "db-1"})


def test_bad_fields_arrive(control: Control, client: Client) -> None:
    control.error = errors.bad_field("vm", "is too long")
    with pytest.raises(errors.InvalidArgumentError) as caught:
        client.vms.GetVm(GetVmRequest(vm="web-1"))
    assert list(caught.value.violations) == [errors.Violation("vm", "is too long")]


def test_a_stream_of_answers_raises_the_error(control: Control, client: Client) -> None:
    control.error = errors.FailedPreconditionError("another session has the console", "CONSOLE_BUSY")
    with pytest.raises(errors.FailedPreconditionError, match="another session"):
        list(client.vms.Console(iter([ConsoleInput()])))


def test_a_stream_of_answers_ends(control: Control, client: Client) -> None:
    typed = iter([ConsoleInput(), ConsoleInput(data=b"logout")])
    assert b"".join(answer.data for answer in client.vms.Console(typed)) == b"login: LOGOUT"


def test_a_stream_of_requests_answers(control: Control, client: Client) -> None:
    parts = [
        UploadTemplateRequest(header=UploadTemplateRequest.Header(name="debian")),
        UploadTemplateRequest(data=b"disk"),
    ]
    assert client.templates.UploadTemplate(iter(parts)).name == "debian"
    assert control.uploaded == b"disk"


def test_pages_lists_all_rows(control: Control, client: Client) -> None:
    assert [vm.name for vm in pages(client.vms.ListVms, ListVmsRequest(), lambda a: a.vms)] == list(control.vms)
    assert len(control.asked) == 2


def test_pages_stops_at_the_limit(control: Control, client: Client) -> None:
    assert [vm.name for vm in pages(client.vms.ListVms, ListVmsRequest(), lambda a: a.vms, limit=1)] == ["web-1"]
    assert len(control.asked) == 1


def test_no_control_plane_is_unavailable(tmp_path: Path) -> None:
    files = ThrowawayCa(tmp_path).issue(Identity(Kind.USER, "ada"))
    path = tmp_path / "profile.toml"
    path.write_text(profiles.text("127.0.0.1:1", files.trust.name, files.certificate.name, files.key.name))
    with connect(path) as client, pytest.raises(UnavailableError) as caught:
        client.vms.GetVm(GetVmRequest(vm="web-1"))
    assert caught.value.reason == "RPC"


def test_connect_finds_the_profile(
    control: Control, canned: tuple[Control, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OSTLER_PROFILE", str(canned[1]))
    with connect() as client:
        assert client.vms.GetVm(GetVmRequest(vm="web-1")).name == "web-1"


@pytest.mark.parametrize(
    ("content", "reason", "complaint"),
    [
        (None, "NO_PROFILE", "there is no profile at"),
        ("control_address = ", "BAD_PROFILE", "cannot read the profile"),
        ('control_address = "a:1"\nca = "x"\nkey = "x"\n', "BAD_PROFILE", "lacks `certificate`"),
        ('control_address = "a:1"\nca = "x"\ncertificate = "x"\nkey = "x"\n', "BAD_PROFILE", "as `ca`"),
    ],
)
def test_a_profile_of_no_use(tmp_path: Path, content: str | None, reason: str, complaint: str) -> None:
    path = tmp_path / "profile.toml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ProfileError, match=complaint) as caught:
        connect(path)
    assert caught.value.reason == reason


def test_importing_the_package_loads_neither_grpc_nor_protobuf() -> None:
    code = "import sys, ostler.client; print({'grpc', 'google.protobuf'} & set(sys.modules) or 'neither')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": ":".join(sys.path)},
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout == "neither\n"
