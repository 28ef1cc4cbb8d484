"""How hosts join the fleet and renew their certificates."""

from __future__ import annotations

import datetime
import re
from dataclasses import dataclass

from ostler_common.address import split_address
from ostler_common.errors import AlreadyExistsError, FailedPreconditionError, UnauthenticatedError, bad_field
from ostler_common.identity import Identity, Kind
from peewee import IntegrityError

from ostler_control import events
from ostler_control.catalog.names import is_id
from ostler_control.database import transaction
from ostler_control.hypervisors import rules
from ostler_control.models import Cluster, Host, HostState, new_id, now
from ostler_control.trust import certificates, tokens
from ostler_control.trust.authority import Authority

_HOST_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,61}[A-Za-z0-9])?")


@dataclass(frozen=True)
class Requests:
    """A host's certificate requests (PEM): its own, and its QEMU's, which must not be able to speak for the host."""

    host: bytes
    qemu: bytes


@dataclass(frozen=True)
class HostCertificates:
    """A host's id and its certificates (PEM)."""

    host_id: str
    certificate_pem: bytes
    qemu_certificate_pem: bytes


def check_host_name(name: str, field: str = "name") -> None:
    """Raises InvalidArgumentError unless the name can be a host's."""
    if not _HOST_NAME.fullmatch(name):
        raise bad_field(field, "must be 1 to 63 letters, digits, dots and hyphens, as host names are", "INVALID_NAME")
    if is_id(name):
        raise bad_field(field, "must not look like an id (a UUID)", "INVALID_NAME")


def join(
    authority: Authority, token: str, requests: Requests, hostname: str, address: str, hypervisor_type: str = ""
) -> HostCertificates:
    """Admits a host: redeems its token, records it, signs its certificates; all of it or nothing.

    A token that is bound to a host brings that host back under its id and revokes its older certificates.
    hypervisor_type: what the host will report; "" when it does not tell yet.
    Raises UnauthenticatedError (BAD_TOKEN), AlreadyExistsError (HOST_EXISTS), InvalidArgumentError, and what
    `hypervisors.rules.admit` raises.
    """
    check_host_name(hostname, "hostname")
    ip, _ = split_address(address)
    try:
        with transaction():
            used = tokens.redeem(token)
            host = _rejoining(used.host_id, address) if used.host_id else _new(used.cluster_id, hostname, address)
            if hypervisor_type:
                rules.admit(host.cluster, hostname, hypervisor_type)
            issued = _issue(authority, host.id, requests, (ip, hostname))
            verb, message = ("host.rejoin", "rejoined") if used.host_id else ("host.join", "joined")
            events.record(
                verb,
                events.Outcome.SUCCEEDED,
                f"host/{host.name}",
                "host",
                host.id,
                host.name,
                f"host {host.name} {message} at {address}",
            )
    except IntegrityError as error:
        raise AlreadyExistsError(
            f"there is a host {hostname} already (to let it rejoin: `ostler host token CLUSTER --rejoin {hostname}`)",
            "HOST_EXISTS",
            {"host": hostname},
        ) from error
    return issued


def renew(authority: Authority, host_id: str, requests: Requests, caller_serial: int) -> HostCertificates:
    """Renews a host's certificates under its identity; the older ones stay valid until they expire.

    caller_serial: of the certificate that asks. Raises UnauthenticatedError NO_SUCH_HOST, CERTIFICATE_REVOKED.
    """
    with transaction():
        # The row is kept until the end, so that renewals take turns with a rejoin or a removal.
        if Host.update(name=Host.name).where(Host.id == host_id, ~Host.removed).execute() != 1:
            raise UnauthenticatedError("the host was removed from the fleet", "NO_SUCH_HOST")
        certificates.check_good(caller_serial)
        host = Host.get_by_id(host_id)
        ip, _ = split_address(host.address)
        return _issue(authority, host_id, requests, (ip, host.name))


def create_token(
    cluster: Cluster, host: Host | None, ttl: datetime.timedelta, actor: str
) -> tuple[str, datetime.datetime]:
    """The secret of a new join token, and its end (UTC, without zone). host: who is to rejoin as itself."""
    with transaction():
        secret, end = tokens.create(cluster.id, ttl, host.id if host else "")
        target = ("host", host.id, host.name) if host else ("cluster", cluster.id, cluster.name)
        events.record(
            "host.token", events.Outcome.SUCCEEDED, actor, *target, f"join token created for {target[0]} {target[2]}"
        )
    return secret, end


def _issue(authority: Authority, host_id: str, requests: Requests, addresses: tuple[str, ...]) -> HostCertificates:
    """QEMU's certificate names no address, so that its holder cannot impersonate the host's libvirt either."""
    return HostCertificates(
        host_id,
        authority.issue(requests.host, Identity(Kind.HOST, host_id), addresses),
        authority.issue(requests.qemu, Identity(Kind.QEMU, host_id)),
    )


def _new(cluster_id: str, hostname: str, address: str) -> Host:
    if not Cluster.select().where(Cluster.id == cluster_id).exists():
        raise FailedPreconditionError("the cluster that the token is for is gone (create another token)", "NO_CLUSTER")
    return Host.create(id=new_id(), name=hostname, address=address, cluster=cluster_id)


def _rejoining(host_id: str, address: str) -> Host:
    host = Host.get_or_none(Host.id == host_id)
    if host is None:
        raise FailedPreconditionError("the token's host was removed (create a token without --rejoin)", "NO_HOST")
    Host.update(address=address).where(Host.id == host_id).execute()
    Host.update(state=HostState.CONNECTING, state_reason="rejoining", state_time=now()).where(
        Host.id == host_id, Host.state != HostState.FENCED
    ).execute()
    certificates.revoke_host(host_id)
    return host
