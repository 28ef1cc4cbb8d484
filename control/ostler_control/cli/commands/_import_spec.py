"""Options that say what is imported and what it becomes: together a pb.ImportSpec."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import update_wrapper
from typing import Any

import click
from ostler.control.v1 import import_pb2 as pb

from ostler_control.cli.names import (
    ACCOUNT,
    CLUSTER,
    DISK_OFFERING,
    HOST,
    IMPORT_SOURCE,
    POOL,
    SERVICE_OFFERING,
    ZONE,
)
from ostler_control.cli.options import F

_Option = Callable[[Any], Any]


def _networks(ctx: click.Context, param: click.Parameter, values: Sequence[str]) -> dict[str, str]:
    """SOURCE=NETWORK; the source's name may have an equals sign in it."""
    networks = {}
    for value in values:
        source, equals, network = value.rpartition("=")
        if not source or not equals or not network:
            raise click.BadParameter("must be SOURCE=NETWORK", ctx, param)
        networks[source] = network
    return networks


def _disk_choices(ctx: click.Context, param: click.Parameter, values: Sequence[str]) -> list[pb.ImportDisk]:
    """KEY[,offering=OFFERING][,pool=POOL]."""
    disks = []
    for value in values:
        key, *rest = value.split(",")
        pairs = dict(part.partition("=")[::2] for part in rest)
        if not key.isdecimal() or not rest or not pairs.keys() <= {"offering", "pool"}:
            raise click.BadParameter("must be KEY[,offering=OFFERING][,pool=POOL]", ctx, param)
        disks.append(pb.ImportDisk(key=int(key), disk_offering=pairs.get("offering", ""), pool=pairs.get("pool", "")))
    return disks


def spec_options(function: F) -> F:
    """A VM of a source, and what it becomes: together as parameter `spec`, a pb.ImportSpec."""
    return _add(function, _SPEC)


def kvm_spec_options(function: F) -> F:
    """The same for a VM of a KVM host, which is neither shut down nor converted."""
    return _add(function, {name: option for name, option in _SPEC.items() if name not in _NOT_OF_KVM})


def file_spec_options(function: F) -> F:
    """The same for a VM that comes from files."""
    return _add(function, _OF_FILES)


def image_spec_options(function: F) -> F:
    """The same for images, whose networks have no names."""
    return _add(function, {name: option for name, option in _OF_FILES.items() if name != "networks"})


def _add(function: F, options: Mapping[str, _Option]) -> F:
    def with_spec(*args: Any, **kwargs: Any) -> Any:
        fields: Mapping[str, Any] = {name: kwargs.pop(name) for name in options}
        return function(*args, spec=pb.ImportSpec(**fields), **kwargs)

    wrapped: Any = update_wrapper(with_spec, function)
    for decorate in reversed(list(options.values())):
        wrapped = decorate(wrapped)
    return wrapped  # type: ignore[no-any-return]


_NOT_OF_KVM = ("shutdown", "force_control_download", "warm", "cut_over", "staging_pool")
_OF_SOURCE = ("source", "source_vm", "shutdown", "force_control_download", "warm", "cut_over")
_CUT_OVERS = {"manual": pb.MANUAL, "auto": pb.AUTO}


def _cut_over(ctx: click.Context, param: click.Parameter, value: str | None) -> pb.CutOver.ValueType:
    return _CUT_OVERS[value] if value else pb.CUT_OVER_UNSPECIFIED


_SPEC: dict[str, _Option] = {
    "source": click.argument("source", type=IMPORT_SOURCE),
    "source_vm": click.argument("source_vm", metavar="VM"),
    "name": click.option("--name", default="", help="Name of the new VM.  [default: the source's]"),
    "account": click.option("--account", type=ACCOUNT, default="", help="Owner.  [default: your account]"),
    "service_offering": click.option(
        "--offering",
        "service_offering",
        type=SERVICE_OFFERING,
        required=True,
        help="Service offering, at least as large as the VM. It says whether the first disk is encrypted.",
    ),
    "disk_offering": click.option(
        "--disk-offering", type=DISK_OFFERING, default="", help="Disk offering of all further disks."
    ),
    "zone": click.option("--zone", type=ZONE, default="", help="Zone.  [default: any]"),
    "cluster": click.option("--cluster", type=CLUSTER, default="", help="Cluster.  [default: any]"),
    "host": click.option("--host", type=HOST, default="", help="Host.  [default: chosen]"),
    "pool": click.option("--pool", type=POOL, default="", help="Pool for the volumes.  [default: chosen]"),
    "disks": click.option(
        "--disk",
        "disks",
        multiple=True,
        metavar="KEY[,offering=OFFERING][,pool=POOL]",
        callback=_disk_choices,
        help="Offering or pool of one disk, by its key in `list-vms -o json`; may be repeated.",
    ),
    "networks": click.option(
        "--network",
        "networks",
        multiple=True,
        metavar="SOURCE=NETWORK",
        callback=_networks,
        help="Network for a network of the source, by its name there; once for each network of the VM.",
    ),
    "conversion_host": click.option(
        "--conversion-host", type=HOST, default="", help="Host that converts.  [default: the least loaded capable one]"
    ),
    "staging_pool": click.option(
        "--staging-pool", type=POOL, default="", help="Pool for the exported files.  [default: the most free space]"
    ),
    "shutdown": click.option(
        "--shutdown", is_flag=True, help="Shut the guest down first. Without it, a clone of a running VM is exported."
    ),
    "stopped": click.option("--stopped", is_flag=True, help="Do not start the new VM."),
    "test_boot": click.option(
        "--test-boot", is_flag=True, help="Boot the new VM once without network, for a minute, and leave it off."
    ),
    "tpm": click.option("--tpm", is_flag=True, help="Give the new VM a new, empty TPM 2.0."),
    "force_control_download": click.option(
        "--force-control-download",
        is_flag=True,
        help="Download through the control plane even where the conversion host has ovftool.",
    ),
    "warm": click.option(
        "--warm", is_flag=True, help="Copy the disks while the VM runs, and only what changed once it is shut down."
    ),
    "cut_over": click.option(
        "--cut-over",
        type=click.Choice(list(_CUT_OVERS)),
        callback=_cut_over,
        help="With --warm, when the VM is shut down: on `ostler import cut-over` (default), or once little changes.",
    ),
}
_OF_FILES = {name: option for name, option in _SPEC.items() if name not in _OF_SOURCE} | {
    "disks": click.option(
        "--disk",
        "disks",
        multiple=True,
        metavar="NUMBER[,offering=OFFERING][,pool=POOL]",
        callback=_disk_choices,
        help="Offering or pool of one disk, by its number from 1; may be repeated.",
    )
}
