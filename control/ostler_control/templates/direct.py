"""Templates that hosts download from an HTTPS server.

A host inspects the file before its row is inserted, so that a URL that leads nowhere, or not to an image, is refused at
once. The digest is checked when a host has downloaded the whole file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ostler.agent.v1 import volume_pb2
from ostler_common.errors import FailedPreconditionError, OstlerError, bad_field
from ostler_common.hypervisors import Function
from ostler_common.image_header import Image, check_image
from ostler_common.units import format_size

from ostler_control import events, settings
from ostler_control.agents import Agents
from ostler_control.catalog.names import check_name
from ostler_control.database import session
from ostler_control.hosts.rows import address
from ostler_control.hypervisors import rules
from ostler_control.models import Host, Template, new_id
from ostler_control.states import HostState
from ostler_control.templates import tpms
from ostler_control.templates.source import direct_source
from ostler_control.templates.store import name_taken

_INSPECT_DEADLINE_S = 60.0
_MIB = 1 << 20
# When a host cannot reach the server, another one may.
_MAX_HOSTS_ASKED = 3


@dataclass(frozen=True)
class NewDirectTemplate:
    """A requested template. sha256 or sha512: of the file, hex; ca_pem: the CA to trust instead of the system's.

    hypervisor_type: "" for every type that has disks of the format; tpm: whether its VMs get a TPM.
    """

    name: str
    url: str
    format: str
    firmware: str
    sha256: str = ""
    sha512: str = ""
    ca_pem: str = ""
    hypervisor_type: str = ""
    tpm: bool = False


@dataclass(frozen=True)
class InspectedFile:
    """What a host found at the URL. file_size_bytes: of the file there."""

    image: Image
    file_size_bytes: int


def check(wanted: NewDirectTemplate) -> None:
    """Raises InvalidArgumentError."""
    check_name("name", wanted.name)
    if bool(wanted.sha256) == bool(wanted.sha512):
        raise bad_field("sha256", "set either sha256 or sha512 to the file's digest", "DIGEST_REQUIRED")
    for field, value, digits in (("sha256", wanted.sha256, 64), ("sha512", wanted.sha512, 128)):
        if value and not re.fullmatch(rf"[0-9a-f]{{{digits}}}", value):
            raise bad_field(field, f"must be {digits} hex digits", "INVALID_DIGEST")


def check_free(name: str) -> None:
    """Raises AlreadyExistsError TEMPLATE_EXISTS."""
    if Template.select().where(Template.name == name).exists():
        raise name_taken(name)


def inspect(wanted: NewDirectTemplate, agents: Agents) -> InspectedFile:
    """Makes a host inspect the file: call it outside of transactions.

    Raises FailedPreconditionError: NO_CAPABLE_HOST, DOWNLOAD_TOO_LARGE; what the hosts and `check_image` raise.
    """
    answer = inspect_url(wanted.url, wanted.ca_pem, agents, wanted.hypervisor_type)
    if answer.file_size_bytes > (limit := _limit_bytes()):
        raise FailedPreconditionError(
            f"the file has {format_size(answer.file_size_bytes)}, but setting direct.download.max.size allows only "
            f"{format_size(limit)}",
            "DOWNLOAD_TOO_LARGE",
        )
    return InspectedFile(check_image(answer.head, answer.file_size_bytes, wanted.format), answer.file_size_bytes)


def inspect_url(url: str, ca_pem: str, agents: Agents, hypervisor_type: str = "") -> volume_pb2.InspectTemplateResponse:
    """Makes a host read the beginning of a file: call it outside of transactions. hypervisor_type: "" for any.

    Raises FailedPreconditionError NO_CAPABLE_HOST, and what the hosts raise.
    """
    with session():
        up = Host.select().where((Host.state == HostState.UP) & ~Host.removed).order_by(Host.maintenance, Host.name)
        hosts = [
            host
            for host in up
            if hypervisor_type in ("", host.hypervisor_type) and rules.supports(Function.DIRECT_DOWNLOAD, host)
        ]
    failure: OstlerError = FailedPreconditionError(
        "no host that is up can download the file; try again later", "NO_CAPABLE_HOST"
    )
    for host in hosts[:_MAX_HOSTS_ASKED]:
        request = volume_pb2.InspectTemplateRequest(direct=direct_source(url, ca_pem))
        try:
            return agents.call(address(host), lambda agent: agent.volumes.InspectTemplate, request, _INSPECT_DEADLINE_S)
        except OstlerError as error:
            if error.code not in ("UNAVAILABLE", "UNIMPLEMENTED"):
                raise
            failure = error
    raise failure


def record(wanted: NewDirectTemplate, inspected: InspectedFile, actor: str) -> Template:
    """Inserts the row: within the caller's transaction. Raises AlreadyExistsError TEMPLATE_EXISTS."""
    check_free(wanted.name)
    template = Template.create(
        id=new_id(),
        name=wanted.name,
        format=wanted.format,
        firmware=wanted.firmware,
        hypervisor_type=wanted.hypervisor_type,
        virtual_size_bytes=inspected.image.virtual_size_bytes,
        file_size_bytes=inspected.file_size_bytes,
        sha256=wanted.sha256,
        sha512=wanted.sha512,
        url=wanted.url,
        ca_pem=wanted.ca_pem,
    )
    if wanted.tpm:
        tpms.add(template)
    events.done("template.register", actor, template)
    return template


def _limit_bytes() -> int:
    return settings.templates.MAX_SIZE.get() * _MIB
