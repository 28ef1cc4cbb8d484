"""Sessions: who is trusted, who is refused, what an expired session does."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ostler_common.errors import (
    DeadlineExceededError,
    FailedPreconditionError,
    InvalidArgumentError,
    OstlerError,
    UnavailableError,
)
from ostler_common.secret import Secret
from ostler_control.vmware import connection as connection_module
from ostler_control.vmware.connection import Connection, connected, parse_address, version_of
from ostler_control.vmware.inventory import Power
from ostler_control.vmware.power import restart, shut_down
from ostler_control.vmware.read_inventory import list_vms, read_vm
from ostler_control.vmware.trust import Trust, pinned, trust_ca, trust_thumbprint

from tests.fakes.certificates import ThrowawayCa
from tests.fakes.vcenter import PASSWORD, FakeVcenter
from tests.unit.vmware.exports import find, never


def names(connection: Connection) -> list[str]:
    return sorted(vm.name for vm in list_vms(connection))


def test_a_server_is_trusted_by_its_authority_or_by_its_thumbprint(site: FakeVcenter) -> None:
    colons = ":".join(site.sha256[index : index + 2] for index in range(0, 64, 2)).upper()
    for trust in (trust_ca(site.ca_pem), trust_thumbprint(site.sha256), trust_thumbprint(colons)):
        with connected(site.server(trust), site.password) as session:
            assert session.is_vcenter
            assert names(session) == ["off", "on", "windows"]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_another_certificate_is_refused_before_the_password_is_sent(host: str, site: FakeVcenter) -> None:
    wrong = trust_thumbprint("ab" * 32)
    with pytest.raises(FailedPreconditionError, match=site.sha256) as refused:
        Connection(replace(site.server(wrong), host=host), site.password)
    assert refused.value.reason == "VCENTER_UNTRUSTED"


def test_an_unknown_authority_is_refused(site: FakeVcenter, tmp_path_factory: pytest.TempPathFactory) -> None:

    stranger = ThrowawayCa(tmp_path_factory.mktemp("stranger"), "stranger").trust.read_text()
    with pytest.raises(FailedPreconditionError) as refused:
        Connection(site.server(trust_ca(stranger)), site.password)
    assert refused.value.reason == "VCENTER_UNTRUSTED"


def test_a_refused_connection_does_not_weaken_the_next(site: FakeVcenter) -> None:
    for _ in range(2):
        with pytest.raises(FailedPreconditionError):
            pinned(site.host, site.port, "sha256", "ab" * 32, 5)


def test_a_wrong_password_is_refused_and_not_repeated_in_the_error(site: FakeVcenter) -> None:
    with pytest.raises(FailedPreconditionError) as refused:
        Connection(site.server(), Secret(b"wrong-password"))
    assert refused.value.reason == "VCENTER_LOGIN_REFUSED"
    assert "wrong-password" not in repr(refused.value) + str(refused.value)


def test_an_expired_session_logs_in_again(site: FakeVcenter, connection: Connection) -> None:
    before = connection.session_id
    site.end_sessions()
    assert names(connection) == ["off", "on", "windows"]
    assert connection.session_id != before


def test_several_threads_log_in_once(site: FakeVcenter, connection: Connection) -> None:
    site.end_sessions()
    failures: list[OstlerError] = []

    def read() -> None:
        try:
            names(connection)
        except OstlerError as error:
            failures.append(error)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert connection._logins == 2


@contextmanager
def silent_server() -> Iterator[int]:
    """Accepts connections and says nothing. Gives the port."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_silent_server_is_given_up(site: FakeVcenter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "_CONNECT_TIMEOUT_S", 0.2)
    monkeypatch.setattr(connection_module, "_CALL_TIMEOUT_S", 0.2)
    with silent_server() as port:
        for trust in (site.server().trust, trust_ca(site.ca_pem)):
            with pytest.raises(UnavailableError) as gone:
                Connection(replace(site.server(trust), port=port), site.password)
            assert gone.value.reason == "VCENTER_UNREACHABLE"


def test_a_password_shows_nowhere(site: FakeVcenter, connection: Connection) -> None:
    assert PASSWORD not in repr(vars(connection)) + repr(connection.server)


def test_a_guest_with_tools_is_shut_down(site: FakeVcenter, connection: Connection) -> None:
    windows = find(connection, "windows")
    shut_down(connection, windows.ref, never)
    assert read_vm(connection, windows.ref).power is Power.OFF
    shut_down(connection, windows.ref, never)


def test_a_guest_without_tools_cannot_be_shut_down(site: FakeVcenter, connection: Connection) -> None:
    with pytest.raises(FailedPreconditionError) as refused:
        shut_down(connection, find(connection, "on").ref, never)
    assert refused.value.reason == "VCENTER_NO_TOOLS"
    assert find(connection, "on").power is Power.ON


def test_a_guest_that_ignores_the_request_is_waited_for_within_a_limit(
    site: FakeVcenter, connection: Connection
) -> None:
    windows = find(connection, "windows")
    shut_down(connection, windows.ref, never)
    restart(connection, windows.ref, never)
    assert read_vm(connection, windows.ref).power is Power.ON
    site.faults(shutdown_held=True)
    with pytest.raises(DeadlineExceededError) as refused:
        shut_down(connection, windows.ref, never, timeout_s=0)
    assert refused.value.reason == "GUEST_SHUTDOWN_TIMEOUT"
    restart(connection, windows.ref, never, timeout_s=0)
    assert read_vm(connection, windows.ref).power is Power.ON


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("vc.example.org", ("vc.example.org", 443)),
        ("10.0.0.5:8443", ("10.0.0.5", 8443)),
        ("[fd00::5]", ("fd00::5", 443)),
        ("[fd00::5]:444", ("fd00::5", 444)),
    ],
)
def test_addresses(text: str, address: tuple[str, int]) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":443",
        "vc:",
        "vc:0",
        "vc:65536",
        "vc:4 43",
        "vc:99999999999",
        "-vc",
        "a b",
        "user@vc",
        "vc/sdk",
        "fd00::5",
        "[fd00::5",
        "[]",
        "[fd00::5]x",
        "[vc]",
    ],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgumentError):
        parse_address(text)


@given(st.text(max_size=40))
def test_any_text_is_an_address_or_refused(text: str) -> None:
    try:
        host, port = parse_address(text)
    except InvalidArgumentError:
        return
    assert host
    assert 0 < port < 65536
    assert not set(host) & set(" /@?#\\\n[]")


@pytest.mark.parametrize("text", ["", "ab" * 20, "zz" * 32, "ab" * 33])
def test_what_is_no_sha256_thumbprint_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgumentError):
        trust_thumbprint(text)


@pytest.mark.parametrize(
    "pem", ["", "no certificate", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
)
def test_what_is_no_authority_is_refused(pem: str) -> None:
    with pytest.raises(InvalidArgumentError):
        trust_ca(pem)


def test_trust_is_one_of_two() -> None:
    assert trust_thumbprint("AB" * 32) == Trust(sha256="ab" * 32)


@pytest.mark.parametrize(
    ("text", "version"), [("6.5", (6, 5)), ("6.7.3", (6, 7)), ("8.0.2.0", (8, 0)), ("10.0", (10, 0)), ("next", (0, 0))]
)
def test_the_version_of_a_servers_api(text: str, version: tuple[int, int]) -> None:
    assert version_of(text) == version
