"""`ostler offering`: service offerings (VMs) and disk offerings (volumes), which share one namespace of verbs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click
from click.shell_completion import CompletionItem
from google.protobuf.field_mask_pb2 import FieldMask
from ostler.control.v1 import offering_pb2 as pb
from ostler.types.v1 import volume_pb2 as types
from ostler_common.errors import NotFoundError

from ostler_control.cli import text
from ostler_control.cli.app import App, pages, pass_app
from ostler_control.cli.details import detail_option
from ostler_control.cli.io_limits import limit_options, limits_text, message
from ostler_control.cli.labels import change as change_labels
from ostler_control.cli.labels import changes_argument, selector_option
from ostler_control.cli.labels import joined as labels_joined
from ostler_control.cli.lazy import Noun
from ostler_control.cli.names import DISK_OFFERING, SERVICE_OFFERING
from ostler_control.cli.options import (
    SIZE,
    confirm,
    limit_option,
    list_options,
    output_option,
    request_id_option,
    yes_option,
)
from ostler_control.cli.output import Listing, View, print_list, print_one
from ostler_control.cli.text_files import read_text

Offering = pb.ServiceOffering | pb.DiskOffering


def _kind(offering: Offering) -> str:
    return "service" if isinstance(offering, pb.ServiceOffering) else "disk"


def _what(offering: Offering) -> str:
    if isinstance(offering, pb.ServiceOffering):
        return f"{text.cpus(offering.cpus)}, {text.size(offering.memory_bytes)} memory"
    size = text.size(offering.size_bytes) if offering.size_bytes else "any size"
    return f"{size}, {text.enum_of(offering, 'format')}, {text.enum_of(offering, 'provisioning')}"


def _maximum(offering: pb.ServiceOffering) -> str:
    return f"{text.cpus(offering.max_cpus)}, {text.size(offering.max_memory_bytes)}"


def _details(offering: Offering) -> str:
    found = offering.details if isinstance(offering, pb.ServiceOffering) else {}
    return text.joined(f"{key}={value}" for key, value in sorted(found.items()))


def _disk_limits(offering: pb.DiskOffering) -> str:
    limits = limits_text(offering.limits) if offering.HasField("limits") else "none"
    return f"{limits}; discard is ignored" if offering.ignore_discard else limits


def _encrypted(offering: Offering) -> str:
    return text.yes(offering.encrypt_root if isinstance(offering, pb.ServiceOffering) else offering.encrypt)


def _plain(offering: Offering) -> object:
    from ostler_control.cli.plain import fields

    return {"kind": _kind(offering), **fields(offering)}


def _extra_configs(ctx: click.Context, param: click.Parameter, values: Sequence[str]) -> dict[str, str]:
    """NAME=TEXT or NAME=@FILE."""
    configs = {}
    for value in values:
        name, equals, rest = value.partition("=")
        if not name or not equals:
            raise click.BadParameter("must be NAME=VALUE or NAME=@FILE", ctx, param)
        configs[name] = rest
    return configs


def _text(value: str) -> str:
    """The value itself, or what @FILE has."""
    return read_text(Path(value[1:])) if value.startswith("@") else value


VIEW = View[Offering](
    "offering",
    columns=[
        ("name", lambda o: o.name),
        ("kind", _kind),
        ("what", _what),
        ("encrypted", _encrypted),
        ("age", lambda o: text.age(o, "create_time")),
    ],
    details=[
        ("i/o limits", lambda o: _disk_limits(o) if isinstance(o, pb.DiskOffering) else ""),
        ("may grow to", lambda o: _maximum(o) if isinstance(o, pb.ServiceOffering) else ""),
        (
            "extra configuration",
            lambda o: text.joined(sorted(o.extra_configs)) if isinstance(o, pb.ServiceOffering) else "",
        ),
        ("details", _details),
        ("labels", lambda o: labels_joined(o.labels)),
        ("id", lambda o: o.id),
    ],
    plain=_plain,
)
PROVISIONINGS = ("thin", "sparse", "thick")
LAYOUTS = ("qcow2", "raw")

service_or_disk = click.option(
    "--service/--disk", "service", default=None, help="Only service offerings, or only disk offerings.  [default: both]"
)


@click.group(cls=Noun)
def command() -> None:
    """Service offerings (VM sizes) and disk offerings (volume kinds)."""


@command.command("create-service")
@click.argument("name")
@click.option("--cpus", type=click.IntRange(1, 512), required=True, help="Virtual CPUs.")
@click.option("--memory", type=SIZE, required=True, help="Memory, e.g. 4GiB.")
@click.option("--max-cpus", type=click.IntRange(1, 512), help="CPUs that a running VM may get.  [default: --cpus]")
@click.option("--max-memory", type=SIZE, default=0, help="Memory that a running VM may get.  [default: --memory]")
@click.option("--encrypt-root", is_flag=True, help="Encrypt the root disk.")
@click.option(
    "--extra-config",
    "extra_configs",
    multiple=True,
    metavar="NAME=VALUE",
    callback=_extra_configs,
    help="For DPDK: dpdk-numa=@FILE, dpdk-hugepages=@FILE, dpdk-interface-NAME=@FILE, dpdk-vhost-user=client|server.",
)
@detail_option("Setting that only one hypervisor type has, e.g. driver.kernel=...; repeatable, not for secrets.")
@request_id_option
@output_option
@pass_app
def create_service(
    app: App,
    name: str,
    cpus: int,
    memory: int,
    max_cpus: int | None,
    max_memory: int,
    encrypt_root: bool,
    extra_configs: dict[str, str],
    details: dict[str, str],
    request_id: str,
    output: str,
) -> None:
    """Creates a service offering, for VMs.

    \b
    Examples:
      ostler offering create-service small --cpus 2 --memory 4GiB --encrypt-root
      ostler offering create-service grows --cpus 2 --memory 4GiB --max-cpus 8 --max-memory 32GiB
      ostler offering create-service fast --cpus 4 --memory 8GiB --extra-config dpdk-numa=@numa.xml
    """
    request = pb.CreateServiceOfferingRequest(
        request_id=request_id,
        name=name,
        cpus=cpus,
        memory_bytes=memory,
        encrypt_root=encrypt_root,
        extra_configs={key: _text(value) for key, value in extra_configs.items()},
        details=details,
        max_cpus=max_cpus or 0,
        max_memory_bytes=max_memory,
    )
    print_one(VIEW, app.client.offerings.CreateServiceOffering(request), output)


@command.command("update")
@click.argument("offering", type=SERVICE_OFFERING)
@detail_option("Setting that only one hypervisor type has; replaces all that there are; repeatable.")
@click.option("--no-details", is_flag=True, help="Remove all details.")
@output_option
@pass_app
def update(app: App, offering: str, details: dict[str, str], no_details: bool, output: str) -> None:
    """Changes the details of a service offering. Its VMs get them at their next start.

    \b
    Example:
      ostler offering update fast --detail driver.command-line="console=ttyS0 quiet"
    """
    if bool(details) == no_details:
        raise click.UsageError("give either --detail or --no-details")
    request = pb.UpdateServiceOfferingRequest(
        service_offering=offering,
        values=pb.ServiceOffering(details=details),
        update_mask=FieldMask(paths=["details"]),
    )
    print_one(VIEW, app.client.offerings.UpdateServiceOffering(request), output)


@command.command("create-disk")
@click.argument("name")
@click.option("--size", type=SIZE, default=0, help="Size, e.g. 100GiB.  [default: chosen with each volume]")
@click.option("--encrypt", is_flag=True, help="Encrypt the volumes.")
@click.option(
    "--provisioning",
    type=click.Choice(PROVISIONINGS),
    default="thin",
    show_default=True,
    help="How much space is allocated at creation.",
)
@click.option("--format", "layout", type=click.Choice(LAYOUTS), default="qcow2", show_default=True, help="File layout.")
@limit_options
@click.option("--no-discard", is_flag=True, help="Keep space that a guest frees, so that the pool does not show it.")
@request_id_option
@output_option
@pass_app
def create_disk(
    app: App,
    /,
    name: str,
    size: int,
    encrypt: bool,
    provisioning: str,
    layout: str,
    no_discard: bool,
    request_id: str,
    output: str,
    **limits: int | None,
) -> None:
    """Creates a disk offering, for data volumes. I/O limits count reads and writes together.

    \b
    Examples:
      ostler offering create-disk secret --encrypt
      ostler offering create-disk bronze --iops 500 --bandwidth 50MiB --burst-iops 2000 --burst-time 30s
    """
    request = pb.CreateDiskOfferingRequest(
        request_id=request_id,
        name=name,
        size_bytes=size,
        encrypt=encrypt,
        provisioning=types.Provisioning.Value(f"PROVISIONING_{provisioning.upper()}"),
        format=types.DiskFormat.Value(f"DISK_FORMAT_{layout.upper()}"),
        limits=message(**limits),
        ignore_discard=no_discard,
    )
    print_one(VIEW, app.client.offerings.CreateDiskOffering(request), output)


@command.command("list")
@service_or_disk
@click.option("--encrypted/--plain", default=None, help="Only those that encrypt, or do not.")
@selector_option
@limit_option()
@list_options
@pass_app
def list_(
    app: App, service: bool | None, encrypted: bool | None, selector: str, limit: int | None, listing: Listing
) -> None:
    """Lists offerings of both kinds.

    \b
    Example:
      ostler offering list --disk --encrypted
    """
    found: list[Offering] = []
    offerings = app.client.offerings
    if service is not False:
        request = pb.ListServiceOfferingsRequest(encrypt_root=encrypted, selector=selector)
        found += pages(offerings.ListServiceOfferings, request, lambda a: a.service_offerings, limit)
    if service is not True:
        disks = pb.ListDiskOfferingsRequest(encrypt=encrypted, selector=selector)
        found += pages(offerings.ListDiskOfferings, disks, lambda a: a.disk_offerings, limit)
    print_list(VIEW, found[:limit], listing)


def _find(app: App, name: str, service: bool | None) -> Offering:
    """The offering of that name: of the kind asked for, or of the only kind that has it."""
    found: list[Offering] = []
    missing: NotFoundError | None = None
    for kind in (True, False) if service is None else (service,):
        try:
            if kind:
                found.append(
                    app.client.offerings.GetServiceOffering(pb.GetServiceOfferingRequest(service_offering=name))
                )
            else:
                found.append(app.client.offerings.GetDiskOffering(pb.GetDiskOfferingRequest(disk_offering=name)))
        except NotFoundError as e:
            missing = e
    if len(found) > 1:
        raise click.UsageError(f"{name} is a service offering and a disk offering: add --service or --disk")
    if not found:
        if service is None:
            raise NotFoundError(f"there is no offering {name}", "OFFERING_NOT_FOUND", {"offering": name})
        assert missing is not None
        raise missing
    return found[0]


class _EitherName(click.ParamType[str]):
    """Name of an offering of either kind."""

    name = "offering"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return [
            item for kind in (SERVICE_OFFERING, DISK_OFFERING) for item in kind.shell_complete(ctx, param, incomplete)
        ]


OFFERING = _EitherName()


@command.command("show")
@click.argument("offering", type=OFFERING)
@service_or_disk
@output_option
@pass_app
def show(app: App, offering: str, service: bool | None, output: str) -> None:
    """Shows one offering.

    \b
    Example:
      ostler offering show small
    """
    print_one(VIEW, _find(app, offering, service), output)


@command.command("label")
@click.argument("offering", type=OFFERING)
@changes_argument
@service_or_disk
@output_option
@pass_app
def label(app: App, offering: str, changes: tuple[str, ...], service: bool | None, output: str) -> None:
    """Adds or changes labels of an offering: KEY=VALUE. KEY- removes one.

    \b
    Examples:
      ostler offering label small tier=bronze
      ostler offering label secret tier- --disk
      ostler offering list --selector tier=bronze
    """
    found = _find(app, offering, service)
    change_labels(app, {f"{_kind(found)}_offering": found.id}, changes, output)


@command.command("delete")
@click.argument("offering", type=OFFERING)
@service_or_disk
@yes_option
@pass_app
def delete(app: App, offering: str, service: bool | None, yes: bool) -> None:
    """Retires an offering. VMs and volumes that use it keep it.

    \b
    Example:
      ostler offering delete small --yes
    """
    found = _find(app, offering, service)
    confirm(f"Delete {_kind(found)} offering {found.name}?", yes)
    if isinstance(found, pb.ServiceOffering):
        request = pb.DeleteServiceOfferingRequest(service_offering=found.id)
        app.client.offerings.DeleteServiceOffering(request)
    else:
        app.client.offerings.DeleteDiskOffering(pb.DeleteDiskOfferingRequest(disk_offering=found.id))
    click.echo(f"{_kind(found)} offering {found.name} is deleted")
