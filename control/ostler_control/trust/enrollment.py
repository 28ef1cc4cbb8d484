"""How hosts join the fleet and renew their certificates."""

from __future__ import annotations

import datetime
from collections.abc import Collection
from dataclasses import dataclass

from ostler_common.address import split_address
from ostler_common.errors import (
    AlreadyExistsError,
    FailedPreconditionError,
    PermissionDeniedError,
    UnauthenticatedError,
    bad_field,
)
from ostler_common.identity import Identity, Kind
from peewee import IntegrityError

from ostler_control import events
from ostler_control.database import transaction
from ostler_control.hypervisors import rules
from ostler_control.models import Cluster, Host, HostGuard, HostState, JoinToken, new_id, now
from ostler_control.trust import certificates, host_names, tokens
from ostler_control.trust.authority import Authority


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


def join(
    authority: Authority,
    token: str,
    requests: Requests,
    hostname: str,
    address: str,
    hypervisor_type: str = "",
    reserved: Collection[str] = (),
) -> HostCertificates:
    """Admits a host: redeems its token, records it, signs its certificates; all of it or nothing.

    A token that is bound to a host brings that host back under its id and revokes its older certificates.
    hypervisor_type: what the host will report; "" when it does not tell yet. reserved: names and addresses that no
    host has unless its token says so. Raises UnauthenticatedError (BAD_TOKEN), AlreadyExistsError (HOST_EXISTS,
    HOST_ADDRESS_TAKEN), PermissionDeniedError (NOT_THE_TOKENS_HOST), InvalidArgumentError, and what
    `hypervisors.rules.admit` raises.
    """
    name, place = host_names.host_name(hostname, "hostname"), host_names.address_name(address)
    try:
        with transaction():
            used = tokens.redeem(token)
            _check_pinned(used, name, place)
            own = {place} if used.host_id else {name, place}
            host_names.check_free(own, used.host_id, set(reserved) - {used.host_name, used.address})
            host = _rejoining(used.host_id, address) if used.host_id else _new(used.cluster_id, name, address)
            if hypervisor_type:
                rules.admit(host.cluster, host.name, hypervisor_type)
            issued = _issue(authority, host.id, requests, (place, host.name))
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
            f"there is a host {name} already (to let it rejoin: `ostler host token CLUSTER --rejoin {name}`)",
            "HOST_EXISTS",
            {"host": name},
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
        certificates.check_few(Identity(Kind.HOST, host_id))
        host = Host.get_by_id(host_id)
        ip, _ = split_address(host.address)
        events.done("host.renew", f"host/{host.name}", host)
        return _issue(authority, host_id, requests, (ip, host.name))


def create_token(
    cluster: Cluster, host: Host | None, ttl: datetime.timedelta, actor: str, name: str = "", address: str = ""
) -> tuple[str, datetime.datetime]:
    """The secret of a new join token, and its end (UTC, without zone).

    host: who is to rejoin as itself; name, address: what a host must be called and reached at (without a port) to join
    with it, "" when it may say so itself. Raises InvalidArgumentError.
    """
    if host is not None and name:
        raise bad_field("host_name", "must be empty when a host rejoins, which keeps its name")
    name = host_names.host_name(name, "host_name") if name else ""
    address = host_names.pinned_address(address, "address")
    with transaction():
        secret, end = tokens.create(cluster.id, ttl, host.id if host else "", name, address)
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


def _check_pinned(token: JoinToken, name: str, place: str) -> None:
    for wanted, given in ((token.host_name, name), (token.address, place)):
        if wanted and given != wanted:
            raise PermissionDeniedError(
                f"the token is for {wanted}, and this host says that it is {given} (correct its host name or "
                "--address, or create another token)",
                "NOT_THE_TOKENS_HOST",
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
    HostGuard.delete().where(HostGuard.host == host_id).execute()  # it may be another machine: no lease proves anything
    certificates.revoke_host(host_id)
    return host
