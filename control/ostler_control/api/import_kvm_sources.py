"""Import sources that are KVM hosts: registered and changed."""

from __future__ import annotations

import uuid

from ostler.control.v1 import import_pb2 as pb
from ostler_common.errors import bad_field
from ostler_common.secret import Secret

from ostler_control.agents import Agents
from ostler_control.api.convert import imports as convert
from ostler_control.api.requests import once
from ostler_control.caller import Caller
from ostler_control.database import session
from ostler_control.imports import kvm_source
from ostler_control.imports.kvm_source import SshTrust, TlsTrust
from ostler_control.keys import Keyring
from ostler_control.models import ImportSource, new_id


def create(request: pb.CreateImportSourceRequest, caller: Caller, keys: Keyring, agents: Agents) -> pb.ImportSource:
    """Registers a source that a host of the fleet has proved. Raises InvalidArgumentError, what the agents raise."""
    if request.password:
        raise bad_field("password", "is for VMware: a KVM host has a private_key", "CONFLICTING_FIELDS")
    # A repeat of the request makes the same row, so that its key stays sealed for that.
    source_id = str(uuid.uuid5(uuid.NAMESPACE_OID, f"{caller.id}/{request.request_id}"))
    new = kvm_source.NewKvmSource(
        id=source_id if request.request_id else new_id(),
        name=request.name,
        address=request.address,
        private_key=Secret(request.private_key),
        trust=_trust(request),
    )
    kvm_source.prove(new, agents)
    if request.validate_only:
        return convert.kvm_draft(new)
    with session():
        row = once(ImportSource, caller, request, lambda: kvm_source.create(new, caller.actor, keys))
        return convert.source(row)


def update(
    request: pb.UpdateImportSourceRequest, row: ImportSource, caller: Caller, keys: Keyring, agents: Agents
) -> pb.ImportSource:
    """Changes a source once a host of the fleet has proved it. Raises as `create` does."""
    if request.password:
        raise bad_field("source", "is a KVM host: it has a private_key, and no password", "CONFLICTING_FIELDS")
    private_key = Secret(request.private_key) if request.private_key else None
    given = request.username or request.client_certificate or request.WhichOneof("trust")
    is_tls = isinstance(kvm_source.trust_of(row), TlsTrust)
    trust = _trust(request, is_tls=is_tls) if given else None
    new = kvm_source.changed(row, trust, private_key, keys)
    kvm_source.prove(new, agents)
    with session():
        return convert.source(kvm_source.update(row, new, caller.actor, keys))


def refuse_fields(request: pb.CreateImportSourceRequest | pb.UpdateImportSourceRequest) -> None:
    """For VMware: raises InvalidArgumentError for what only a KVM host has."""
    if request.private_key or request.client_certificate or request.WhichOneof("trust") == "known_hosts":
        raise bad_field("known_hosts", "and private_key are for KVM hosts", "CONFLICTING_FIELDS")


def _trust(
    request: pb.CreateImportSourceRequest | pb.UpdateImportSourceRequest, *, is_tls: bool | None = None
) -> SshTrust | TlsTrust:
    """How the host is to be reached. is_tls: how it is reached now, where the request does not tell; None: it must."""
    given = request.WhichOneof("trust")
    if given == "known_hosts" or (given is None and is_tls is False):
        if request.client_certificate:
            raise bad_field(
                "client_certificate", "is for TLS, with ca_pem; known_hosts is for ssh", "CONFLICTING_FIELDS"
            )
        return SshTrust(request.username, request.known_hosts)
    if given == "ca_pem" or (given is None and is_tls):
        if request.username:
            raise bad_field(
                "username", "is for ssh; with TLS the client's certificate says who asks", "CONFLICTING_FIELDS"
            )
        return TlsTrust(request.ca_pem, request.client_certificate)
    raise bad_field(
        "known_hosts",
        "is required for a KVM host that ssh reaches, or ca_pem and client_certificate for TLS; with private_key",
        "REQUIRED",
    )
