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
from ostler_control.keys import Keyring
from ostler_control.models import ImportSource, new_id


def create(request: pb.CreateImportSourceRequest, caller: Caller, keys: Keyring, agents: Agents) -> pb.ImportSource:
    """Registers a source that a host of the fleet has proved. Raises InvalidArgumentError, what the agents raise."""
    if request.password or request.WhichOneof("trust") != "known_hosts":
        raise bad_field("known_hosts", "is required for a KVM host, with private_key, instead of others", "REQUIRED")
    # A repeat of the request makes the same row, so that its key stays sealed for that.
    source_id = str(uuid.uuid5(uuid.NAMESPACE_OID, f"{caller.id}/{request.request_id}"))
    new = kvm_source.NewKvmSource(
        id=source_id if request.request_id else new_id(),
        name=request.name,
        address=request.address,
        username=request.username,
        private_key=Secret(request.private_key),
        known_hosts=request.known_hosts,
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
    if request.password or request.WhichOneof("trust") not in (None, "known_hosts"):
        raise bad_field("source", "is a KVM host: give private_key and known_hosts", "CONFLICTING_FIELDS")
    private_key = Secret(request.private_key) if request.private_key else None
    new = kvm_source.changed(row, request.username, private_key, request.known_hosts, keys)
    kvm_source.prove(new, agents)
    with session():
        return convert.source(kvm_source.update(row, new, caller.actor, keys))


def refuse_fields(request: pb.CreateImportSourceRequest | pb.UpdateImportSourceRequest) -> None:
    """For VMware: raises InvalidArgumentError for what only a KVM host has."""
    if request.private_key or request.WhichOneof("trust") == "known_hosts":
        raise bad_field("known_hosts", "and private_key are for KVM hosts", "CONFLICTING_FIELDS")
