"""A joining host chooses no name or address that is another's."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from ostler_common import pki
from ostler_common.errors import AlreadyExistsError, InvalidArgumentError, PermissionDeniedError
from ostler_control import database
from ostler_control.hosts import manage
from ostler_control.models import Cluster, Host, JoinToken
from ostler_control.trust import enrollment
from ostler_control.trust.host_names import address_name, host_name

from tests.fakes.fleet import Fleet

HOUR = datetime.timedelta(hours=1)


@pytest.fixture
def fleet(tmp_path: Path, fresh_database: str) -> Iterator[Fleet]:
    """A fleet whose only host is h1 at 10.0.0.1."""
    fleet = Fleet(tmp_path, fresh_database)
    database.connect(fresh_database)  # initialize has let go of it
    with database.session():
        fleet.host("h1", "10.0.0.1:8442")
        yield fleet


def join(
    fleet: Fleet, name: str, address: str, *, pinned_name: str = "", pinned_address: str = "", host: Host | None = None
) -> x509.SubjectAlternativeName:
    """Joins with a new token; the names in the certificate."""
    cluster = Cluster.get(Cluster.name == "c")
    secret, _ = enrollment.create_token(cluster, host, HOUR, "test", pinned_name, pinned_address)
    requests = enrollment.Requests(pki.new_key_and_csr(None)[1], pki.new_key_and_csr(None)[1])
    joined = enrollment.join(fleet.authority, secret, requests, name, address, reserved={"10.0.0.100", "control"})
    certificate = x509.load_pem_x509_certificate(joined.certificate_pem)
    return certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value


@pytest.mark.parametrize(
    "name",
    ["10.0.0.1", "127.0.0.1", "2130706433", "0x7f000001", "10.1", "node.7", "localhost", "LocalHost.localdomain",
     "web.localhost", "", "-h", "a b", "h\u0131", "3f1c1d3e-8f5e-4b8f-9d8a-0a3c1e1b2c3d"],
)  # fmt: skip
def test_a_name_that_is_an_address_or_every_machines_is_refused(name: str) -> None:
    with pytest.raises(InvalidArgumentError) as refused:
        host_name(name)
    assert refused.value.reason == "INVALID_NAME"


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "[::ffff:127.0.0.1]:1", "[::]:1", "0.0.0.0:1", "224.0.0.1:1",
     "localhost:1", "h.localhost:1", "0x7f.1:1", "127.1:1", "010.0.0.1:1", "2130706433:1"],
)  # fmt: skip
def test_an_address_that_is_no_hosts_own_is_refused(address: str) -> None:
    with pytest.raises(InvalidArgumentError) as refused:
        address_name(address)
    assert refused.value.reason == "INVALID_ADDRESS"


def test_usual_names_and_addresses_are_accepted() -> None:
    assert [host_name(name) for name in ("h1", "Node-7", "kvm3.example.com")] == ["h1", "node-7", "kvm3.example.com"]
    addresses = ("10.0.0.1:8442", "[2001:DB8:0::1]:1", "Kvm3.example.com:1", "[::ffff:10.0.0.1]:1")
    assert list(map(address_name, addresses)) == ["10.0.0.1", "2001:db8::1", "kvm3.example.com", "10.0.0.1"]


@pytest.mark.parametrize(
    ("name", "address", "reason"),
    [
        ("h2", "10.0.0.1:9999", "HOST_ADDRESS_TAKEN"),
        ("h2", "[::ffff:10.0.0.1]:1", "HOST_ADDRESS_TAKEN"),
        ("h1", "10.0.0.2:8442", "HOST_EXISTS"),
        ("H1", "10.0.0.2:8442", "HOST_EXISTS"),
        ("h2", "h1:8442", "HOST_EXISTS"),
        ("h2", "10.0.0.100:8442", "HOST_ADDRESS_TAKEN"),
        ("Control", "10.0.0.2:8442", "HOST_ADDRESS_TAKEN"),
    ],
)
def test_another_hosts_and_the_control_planes_names_are_refused(
    fleet: Fleet, name: str, address: str, reason: str
) -> None:
    with pytest.raises(AlreadyExistsError) as refused:
        join(fleet, name, address)
    assert refused.value.reason == reason
    assert [host.name for host in Host.select()] == ["h1"]
    assert JoinToken.get().use_time is None, "the token is still good for the right host"


def test_a_host_gets_its_own_names_and_may_rejoin_with_them(fleet: Fleet) -> None:
    names = join(fleet, "H2", "10.0.0.2:8442")
    assert "h2" in names.get_values_for_type(x509.DNSName)
    assert list(map(str, names.get_values_for_type(x509.IPAddress))) == ["10.0.0.2"]
    h2 = Host.get(Host.name == "h2")
    join(fleet, "whatever", "10.0.0.2:8442", host=h2)
    with pytest.raises(AlreadyExistsError):
        join(fleet, "h2", "10.0.0.1:8442", host=h2)


def test_a_token_that_names_its_host_is_no_other_hosts(fleet: Fleet) -> None:
    for name, address in (("h9", "10.0.0.7:1"), ("h7", "10.0.0.9:1")):
        with pytest.raises(PermissionDeniedError) as refused:
            join(fleet, name, address, pinned_name="h7", pinned_address="10.0.0.7")
        assert refused.value.reason == "NOT_THE_TOKENS_HOST"
    join(fleet, "H7", "10.0.0.7:8442", pinned_name="h7", pinned_address="10.0.0.7")
    join(fleet, "control", "10.0.0.100:8442", pinned_name="control", pinned_address="10.0.0.100")


def test_an_update_takes_no_name_either(fleet: Fleet) -> None:
    join(fleet, "h2", "10.0.0.2:8442")
    h2 = Host.get(Host.name == "h2")
    for values in ({"name": "H1"}, {"address": "10.0.0.1:1"}, {"address": "h1:1"}):
        with pytest.raises(AlreadyExistsError):
            manage.update(h2, values, "test")
    assert manage.update(h2, {"name": "H3", "address": "10.0.0.2:1"}, "test").name == "h3"
