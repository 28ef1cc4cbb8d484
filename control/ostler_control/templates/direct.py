"""Templates that hosts fetch by themselves from an HTTPS server.

A host looks at the file before its row is made, so that an address that leads nowhere, or to what is no image, is
refused at once. The digest is checked when a host has fetched all of it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from ostler.agent.v1 import volume_pb2
from ostler_common.errors import FailedPreconditionError, OstlerError, bad_field
from ostler_common.hypervisors import Function
from ostler_common.image_header import Image, check_image
from ostler_common.units import format_size

from ostler_control import events, settings
from ostler_control.agents import Agents
from ostler_control.catalog.names import check_name
from ostler_control.hosts.rows import address
from ostler_control.hypervisors import rules
from ostler_control.models import Host, Template, new_id
from ostler_control.templates.source import direct_source
from ostler_control.templates.store import name_taken

_INSPECT_DEADLINE_S = 60.0
_MIB = 1 << 20
# A host that cannot reach the server says nothing about the others.
_MOST_HOSTS_ASKED = 3


@dataclass(frozen=True)
class NewDirectTemplate:
    """A template that is wanted. sha256 or sha512: of the file, hex; ca_pem: whom to trust in place of the system's.

    hypervisor_type: "" for every one that has disks of the format.
    """

    name: str
    url: str
    format: str
    firmware: str
    sha256: str = ""
    sha512: str = ""
    ca_pem: str = ""
    hypervisor_type: str = ""


@dataclass(frozen=True)
class Found:
    """What a host saw at the address. file_size_bytes: of the file there."""

    image: Image
    file_size_bytes: int


def check(wanted: NewDirectTemplate) -> None:
    """Raises InvalidArgumentError."""
    check_name("name", wanted.name)
    if bool(wanted.sha256) == bool(wanted.sha512):
        raise bad_field("sha256", "give the file's digest: sha256 or sha512, one of them", "DIGEST_REQUIRED")
    for field, value, digits in (("sha256", wanted.sha256, 64), ("sha512", wanted.sha512, 128)):
        if value and not re.fullmatch(rf"[0-9a-f]{{{digits}}}", value):
            raise bad_field(field, f"must be {digits} hex digits", "INVALID_DIGEST")


def check_free(name: str) -> None:
    """Raises AlreadyExistsError TEMPLATE_EXISTS."""
    if Template.select().where(Template.name == name).exists():
        raise name_taken(name)


def look(wanted: NewDirectTemplate, agents: Agents) -> Found:
    """Has a host look at the file: outside of any transaction.

    Raises FailedPreconditionError: NO_CAPABLE_HOST, DOWNLOAD_TOO_LARGE; what the hosts and `check_image` raise.
    """
    up: Any = Host.select().where((Host.state == "up") & ~Host.removed).order_by(Host.maintenance, Host.name)
    hosts = [
        host
        for host in up
        if wanted.hypervisor_type in ("", host.hypervisor_type) and rules.supports(Function.DIRECT_DOWNLOAD, host)
    ]
    failure: OstlerError = FailedPreconditionError(
        "no host is up that could look at the file; try again when one is", "NO_CAPABLE_HOST"
    )
    for host in hosts[:_MOST_HOSTS_ASKED]:
        request = volume_pb2.InspectTemplateRequest(direct=direct_source(wanted.url, wanted.ca_pem))
        try:
            answer = agents.call(
                address(host), lambda agent: agent.volumes.InspectTemplate, request, _INSPECT_DEADLINE_S
            )
        except OstlerError as error:
            if error.code not in ("UNAVAILABLE", "UNIMPLEMENTED"):
                raise
            failure = error
            continue
        if answer.file_size_bytes > (limit := _limit_bytes()):
            raise FailedPreconditionError(
                f"the file has {format_size(answer.file_size_bytes)}, and direct.download.max.size allows "
                f"{format_size(limit)}",
                "DOWNLOAD_TOO_LARGE",
            )
        return Found(check_image(answer.head, answer.file_size_bytes, wanted.format), answer.file_size_bytes)
    raise failure


def record(wanted: NewDirectTemplate, found: Found, actor: str) -> Template:
    """Makes the row: within the caller's transaction. Raises AlreadyExistsError TEMPLATE_EXISTS."""
    check_free(wanted.name)
    template = Template.create(
        id=new_id(),
        name=wanted.name,
        format=wanted.format,
        firmware=wanted.firmware,
        hypervisor_type=wanted.hypervisor_type,
        virtual_size_bytes=found.image.virtual_size_bytes,
        file_size_bytes=found.file_size_bytes,
        sha256=wanted.sha256,
        sha512=wanted.sha512,
        url=wanted.url,
        ca_pem=wanted.ca_pem,
    )
    events.done("template.register", actor, template)
    return template


def _limit_bytes() -> int:
    limit: int = settings.templates.MAX_SIZE.get()
    return limit * _MIB
