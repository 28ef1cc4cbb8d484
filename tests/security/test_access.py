"""Every RPC of the control plane, by every kind of caller, over real TLS."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from ostler.control.v1 import account_pb2, account_pb2_grpc, enrollment_pb2
from ostler_common import pki
from ostler_common.errors import from_rpc_error
from ostler_common.identity import Identity, Kind
from ostler_common.pki import CertificateAuthority
from ostler_common.tls import TlsFiles
from ostler_control import database
from ostler_control.api.authorization import TABLE
from ostler_control.caller import Role
from ostler_control.models import Host, User
from ostler_control.server import ENROLLMENT, Control
from ostler_control.trust import users

from tests.fakes.fleet import Fleet, bare_channel, channel
from tests.rpcs import DEADLINE_S, Method, methods, who_am_i
from tests.security import access_matrix


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    return Fleet(tmp_path_factory.mktemp("fleet"))


@pytest.fixture(scope="module")
def control(fleet: Fleet) -> Iterator[Control]:
    with fleet.running() as control:
        yield control


@pytest.fixture(scope="module")
def served(fleet: Fleet, control: Control) -> list[Method]:
    with channel(control.main_port, fleet.admin) as on:
        return methods(on)


@pytest.fixture(scope="module")
def callers(fleet: Fleet, control: Control) -> dict[Role, TlsFiles]:
    return {
        Role.ADMIN: fleet.user("ada", Role.ADMIN),
        Role.MEMBER: fleet.user("mia", Role.MEMBER),
        Role.HOST: fleet.host("h1")[1],
    }


def expected(roles: Mapping[str, frozenset[str]]) -> set[str]:
    """The paths of methods of a part of the access matrix."""
    return {
        f"/{service if '.' in service else f'ostler.control.v1.{service}'}/{method}"
        for service, methods in roles.items()
        for method in methods
    }


@pytest.mark.parametrize(
    ("role", "methods"),
    [(Role.MEMBER, access_matrix.MEMBERS), (Role.HOST, access_matrix.HOSTS)],
    ids=["members", "hosts"],
)
def test_nobody_but_admins_may_call_more_than_expected(role: Role, methods: Mapping[str, frozenset[str]]) -> None:
    assert {path for path, roles in TABLE.items() if role in roles} == expected(methods)


def test_the_table_has_every_served_method_and_no_other(served: list[Method]) -> None:
    assert {method.path for method in served} == set(TABLE)


@pytest.mark.parametrize("role", list(Role))
def test_every_method_lets_in_whom_the_table_says(
    role: Role, served: list[Method], callers: dict[Role, TlsFiles], control: Control
) -> None:
    with channel(control.main_port, callers[role]) as on:
        for method in served:
            error = method.call(on)
            refused = error is not None and error.reason == "NOT_ALLOWED"
            assert refused == (role not in TABLE[method.path]), (role, method.path, error)
            assert error is None or error.code not in ("UNAUTHENTICATED", "UNAVAILABLE", "INTERNAL"), method.path


def test_members_renew_their_own_certificate_only(callers: dict[Role, TlsFiles], control: Control) -> None:
    _, csr_pem = pki.new_key_and_csr(None)
    with channel(control.main_port, callers[Role.MEMBER]) as on:
        stub = account_pb2_grpc.UserServiceStub(on)
        own = account_pb2.IssueUserCertificateRequest(user="mia", csr_pem=csr_pem)
        assert stub.IssueUserCertificate(own, timeout=DEADLINE_S).certificate_pem
        others = account_pb2.IssueUserCertificateRequest(user="ada", csr_pem=csr_pem)
        with pytest.raises(grpc.RpcError) as refused:
            stub.IssueUserCertificate(others, timeout=DEADLINE_S)
    assert from_rpc_error(refused.value).reason == "NOT_YOURSELF"


def test_no_certificate_opens_nothing(fleet: Fleet, served: list[Method], control: Control) -> None:
    with bare_channel(control.main_port, fleet.authority.fleet_pem) as on:
        for method in served:
            error = method.call(on)
            assert error is not None, method.path
            assert error.code == "UNAVAILABLE", method.path


def test_foreign_ca_opens_nothing(fleet: Fleet, served: list[Method], control: Control) -> None:
    identity = Identity(Kind.USER, "admin")
    key, csr = pki.new_key_and_csr(identity)
    certificate = CertificateAuthority.create("Ostler users CA").sign(csr, identity, datetime.timedelta(days=1))
    with channel(control.main_port, fleet.credentials("foreign", key, certificate)) as on:
        for method in served[:3]:  # the handshake fails, whatever the method
            error = method.call(on)
            assert error is not None
            assert error.code == "UNAVAILABLE", method.path


def test_certificate_that_is_not_on_the_list_opens_nothing(
    fleet: Fleet, served: list[Method], control: Control
) -> None:
    pem = fleet.config.state.users_ca.read_bytes()
    identity = Identity(Kind.USER, "admin")
    key, csr = pki.new_key_and_csr(identity)
    certificate = CertificateAuthority.load(pem, pem).sign(csr, identity, datetime.timedelta(days=1))
    with channel(control.main_port, fleet.credentials("unlisted", key, certificate)) as on:
        for method in served:
            error = method.call(on)
            assert error is not None, method.path
            assert error.code == "UNAUTHENTICATED", method.path


def test_control_planes_own_certificate_is_no_callers(fleet: Fleet, control: Control) -> None:
    error = who_am_i(control.main_port, fleet.config.state.client_tls())
    assert error is not None
    assert error.reason == "UNKNOWN_CALLER"


def test_qemus_certificate_opens_nothing(fleet: Fleet, served: list[Method], control: Control) -> None:
    host, _ = fleet.host("broken-out")
    identity = Identity(Kind.QEMU, str(host.id))
    key, csr = pki.new_key_and_csr(identity)
    with database.transaction():
        certificate = fleet.authority.issue(csr, identity)
    with channel(control.main_port, fleet.credentials("qemu", key, certificate)) as on:
        for method in served:
            error = method.call(on)
            assert error is not None, method.path
            assert (error.code, error.reason) == ("UNAUTHENTICATED", "UNKNOWN_CALLER"), method.path


def test_revoked_admin_is_refused_at_once_on_an_open_connection(
    fleet: Fleet, served: list[Method], control: Control
) -> None:
    papers = fleet.user("rex", Role.ADMIN)
    with channel(control.main_port, papers) as on:
        stub = account_pb2_grpc.UserServiceStub(on)
        assert stub.WhoAmI(account_pb2.WhoAmIRequest()).name == "rex"
        with database.session():
            users.revoke(User.get(User.name == "rex"), "test")
        for method in served:
            error = method.call(on)
            assert error is not None, method.path
            assert error.code == "UNAUTHENTICATED", method.path


def test_running_stream_ends_soon_after_its_caller(fleet: Fleet, control: Control) -> None:
    papers = fleet.user("sid", Role.MEMBER)
    request = health_pb2.HealthCheckRequest()
    with channel(control.main_port, papers) as on, channel(control.main_port, fleet.admin) as other:
        cut = health_pb2_grpc.HealthStub(on).Watch(request, timeout=DEADLINE_S)
        kept = health_pb2_grpc.HealthStub(other).Watch(request, timeout=DEADLINE_S)
        next(cut)
        next(kept)
        with database.session():
            users.delete(User.get(User.name == "sid"), "test")
        control.cut_unauthorized()
        with pytest.raises(grpc.RpcError) as error:
            next(cut)
        assert error.value.code() is grpc.StatusCode.CANCELLED
        assert kept.is_active()
        kept.cancel()


def test_deleted_user_and_removed_host_are_refused_at_once(fleet: Fleet, control: Control) -> None:
    mort = fleet.user("mort", Role.MEMBER)
    host, papers = fleet.host("gone")
    with database.session():
        users.delete(User.get(User.name == "mort"), "test")
        Host.update(removed=True).where(Host.id == host.id).execute()
    for gone in (mort, papers):
        error = who_am_i(control.main_port, gone)
        assert error is not None
        assert error.code == "UNAUTHENTICATED"


def test_certificate_that_ended_is_refused_on_an_open_connection(fleet: Fleet, control: Control) -> None:
    lifetime = datetime.timedelta(seconds=2)
    with database.transaction():
        identity = users.identity(User.get(User.name == "admin"))
        key, csr = pki.new_key_and_csr(identity)
        certificate = fleet.short_lived(lifetime).issue(csr, identity)
    with channel(control.main_port, fleet.credentials("brief", key, certificate)) as on:
        stub = account_pb2_grpc.UserServiceStub(on)
        assert stub.WhoAmI(account_pb2.WhoAmIRequest()).name == "admin"
        while datetime.datetime.now(datetime.UTC) <= pki.expires(certificate):
            pass
        with pytest.raises(grpc.RpcError) as error:
            stub.WhoAmI(account_pb2.WhoAmIRequest(), timeout=DEADLINE_S)
        assert error.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_the_enrollment_port_serves_enrollment_only(fleet: Fleet, control: Control) -> None:
    with bare_channel(control.enroll_port, fleet.authority.fleet_pem) as on:
        join = Method(f"/{ENROLLMENT}/JoinHost", enrollment_pb2.JoinHostRequest, False, False)
        error = join.call(on)
        assert error is not None
        assert error.code == "INVALID_ARGUMENT"
        who = Method("/ostler.control.v1.UserService/WhoAmI", account_pb2.WhoAmIRequest, False, False).call(on)
        assert who is not None
        assert who.code == "UNIMPLEMENTED"
        with pytest.raises(grpc.RpcError) as hidden:
            methods(on)
        assert hidden.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_keys_are_the_owners_alone(fleet: Fleet) -> None:
    state = fleet.config.state
    private = [state.fleet_ca, state.users_ca, state.control, state.kek, fleet.admin.key]
    assert {path.stat().st_mode & 0o777 for path in private} == {0o600}
    assert Path(state.path).stat().st_mode & 0o777 == 0o700
