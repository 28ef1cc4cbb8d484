"""Who gets what from an agent: every RPC, over real TLS."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from google.protobuf import descriptor
from ostler_agent.authorize import SERVICES, AgentAuthorizer
from ostler_agent.credentials import CredentialsStore, HostCredentials
from ostler_common import channel, errors, pki, server
from ostler_common.identity import Identity, Kind
from ostler_common.tls import Peer, TlsFiles, server_credentials

from tests.fakes.certificates import ThrowawayCa

HOST = "5b6c9a0c-0000-4000-8000-000000000001"
CONTROL = Identity(Kind.CONTROL, "c1")
MODULES = [path.stem for path in sorted(Path(__file__).parents[3].glob("protos/ostler/agent/v1/*.proto"))]


def agent_services() -> dict[str, descriptor.ServiceDescriptor]:
    modules = [importlib.import_module(f"ostler.agent.v1.{name}_pb2") for name in MODULES]
    return {service.full_name: service for module in modules for service in module.DESCRIPTOR.services_by_name.values()}


DESCRIPTORS = agent_services()
METHODS = [(name, method) for name, service in DESCRIPTORS.items() for method in service.methods]


def registration(service: descriptor.ServiceDescriptor) -> server.Registration:
    """The service with no handler of its own: an authorized call is answered UNIMPLEMENTED."""
    stubs = importlib.import_module(service.file.name.removesuffix(".proto").replace("/", ".") + "_pb2_grpc")
    add: Callable[[object, grpc.Server], None] = getattr(stubs, f"add_{service.name}Servicer_to_server")
    servicer = getattr(stubs, f"{service.name}Servicer")
    concrete = type(f"Empty{service.name}", (servicer,), {"__abstractmethods__": frozenset()})
    return lambda grpc_server: add(concrete(), grpc_server)


@pytest.fixture
def fleet(tmp_path: Path) -> ThrowawayCa:
    return ThrowawayCa(tmp_path)


@pytest.fixture
def store(tmp_path: Path, fleet: ThrowawayCa) -> CredentialsStore:
    store = CredentialsStore(tmp_path / "state")
    save(store, fleet)
    return store


def save(
    store: CredentialsStore, fleet: ThrowawayCa, lifetime: timedelta = timedelta(days=1), crl: bytes = b""
) -> None:
    def pair(kind: Kind) -> tuple[bytes, bytes]:
        key, csr = pki.new_key_and_csr(None)
        return fleet.ca.sign(csr, Identity(kind, HOST), lifetime), key

    trust = (fleet.ca.certificate_pem, crl)
    store.save(HostCredentials(*pair(Kind.HOST), *pair(Kind.QEMU), *trust, "control:8440", "h1:8442"))


@pytest.fixture
def agent(store: CredentialsStore) -> Iterator[server.Server]:
    running = server.serve(
        "127.0.0.1:0",
        credentials=server_credentials(store.files),
        services={name: registration(service) for name, service in DESCRIPTORS.items()},
        authorize=AgentAuthorizer(store),
        workers=8,
    )
    yield running
    running.stop(0).wait()


def call(open_channel: grpc.Channel, service: str, method: descriptor.MethodDescriptor) -> grpc.StatusCode:
    """Calls a method with an empty request; gives the code of the answer."""
    kind = f"{'stream' if method.client_streaming else 'unary'}_{'stream' if method.server_streaming else 'unary'}"
    stub = getattr(open_channel, kind)(f"/{service}/{method.name}", lambda request: b"", lambda data: data)
    request = iter([b""]) if method.client_streaming else b""
    try:
        answer = stub(request, timeout=10)
        if method.server_streaming:
            list(answer)
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK


def codes(agent: server.Server, files: TlsFiles) -> set[grpc.StatusCode]:
    """What a caller gets from all the methods."""
    address = f"127.0.0.1:{agent.port}"
    with channel.open_channel(address, files, channel.host_server_name(HOST)) as opened:
        return walk(opened)


def walk(open_channel: grpc.Channel) -> set[grpc.StatusCode]:
    with ThreadPoolExecutor(len(METHODS)) as pool:
        return set(pool.map(lambda pair: call(open_channel, *pair), METHODS))


def test_table_has_every_service_and_no_other() -> None:
    assert set(SERVICES) - {server.HEALTH, server.REFLECTION} == set(DESCRIPTORS)
    assert {kind for kinds in SERVICES.values() for kind in kinds} == {Kind.CONTROL}


def test_control_is_let_in_everywhere(agent: server.Server, fleet: ThrowawayCa) -> None:
    assert codes(agent, fleet.issue(CONTROL)) == {grpc.StatusCode.UNIMPLEMENTED}


@pytest.mark.parametrize("kind", sorted(set(Kind) - {Kind.CONTROL}))
def test_others_of_the_fleet_are_refused_everywhere(agent: server.Server, fleet: ThrowawayCa, kind: Kind) -> None:
    assert codes(agent, fleet.issue(Identity(kind, "other"))) == {grpc.StatusCode.PERMISSION_DENIED}


def test_the_hosts_own_certificate_is_refused_everywhere(agent: server.Server, store: CredentialsStore) -> None:
    assert codes(agent, store.files) == {grpc.StatusCode.PERMISSION_DENIED}


@pytest.mark.parametrize("identity", [Identity(Kind.USER, "admin"), CONTROL])
def test_another_authority_gets_no_connection(
    agent: server.Server, fleet: ThrowawayCa, tmp_path: Path, identity: Identity
) -> None:
    users = ThrowawayCa(tmp_path, "users").issue(identity, trust=fleet.trust)
    assert codes(agent, users) == {grpc.StatusCode.UNAVAILABLE}


def test_no_certificate_gets_no_connection(agent: server.Server, fleet: ThrowawayCa) -> None:
    credentials = grpc.ssl_channel_credentials(fleet.ca.certificate_pem)
    address = f"127.0.0.1:{agent.port}"
    with channel.secure_channel(address, credentials, channel.host_server_name(HOST)) as opened:
        assert walk(opened) == {grpc.StatusCode.UNAVAILABLE}


def test_no_plaintext(agent: server.Server) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{agent.port}") as opened:
        assert call(opened, *METHODS[0]) is grpc.StatusCode.UNAVAILABLE


def test_method_that_is_not_in_the_table_is_for_nobody(store: CredentialsStore) -> None:
    authorize = AgentAuthorizer(store)
    with pytest.raises(errors.PermissionDeniedError):
        authorize(Peer(CONTROL, 1, "peer"), "/ostler.agent.v2.NewService/Anything")
    with pytest.raises(errors.UnauthenticatedError):
        authorize(Peer(None, None, "peer"), "/ostler.agent.v1.VmService/ListVms")


def test_revoked_control_certificate_is_refused_at_once(
    agent: server.Server, store: CredentialsStore, fleet: ThrowawayCa
) -> None:
    files = fleet.issue(CONTROL)
    serial = pki.identity_and_serial(pki.split_pem(files.certificate.read_bytes())[0])[1]
    assert serial is not None
    address = f"127.0.0.1:{agent.port}"
    with channel.open_channel(address, files, channel.host_server_name(HOST)) as opened:
        assert call(opened, *METHODS[0]) is grpc.StatusCode.UNIMPLEMENTED
        save(store, fleet, crl=fleet.ca.crl([(serial, datetime.now(UTC))], 1))
        assert call(opened, *METHODS[0]) is grpc.StatusCode.PERMISSION_DENIED


def test_agent_whose_certificate_ended_serves_nothing(
    agent: server.Server, store: CredentialsStore, fleet: ThrowawayCa
) -> None:
    files = fleet.issue(CONTROL)
    address = f"127.0.0.1:{agent.port}"
    with channel.open_channel(address, files, channel.host_server_name(HOST)) as opened:
        assert call(opened, *METHODS[0]) is grpc.StatusCode.UNIMPLEMENTED
        save(store, fleet, lifetime=timedelta(minutes=1))  # began five minutes ago
        assert call(opened, *METHODS[0]) is grpc.StatusCode.FAILED_PRECONDITION
    assert codes(agent, files) == {grpc.StatusCode.UNAVAILABLE}
