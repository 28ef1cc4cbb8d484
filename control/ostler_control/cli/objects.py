"""Options that narrow a list to what concerns one object."""

from __future__ import annotations

import click

from ostler_control.cli.app import App
from ostler_control.cli.names import HOST, VM, VOLUME
from ostler_control.cli.options import F


def object_options(function: F) -> F:
    """--host, --vm, --volume, --resource: see `object_id`."""
    function = click.option("--resource", metavar="ID", default="", help="Only of the object with this id.")(function)
    function = click.option("--volume", type=VOLUME, default="", help="Only of this volume.")(function)
    function = click.option("--vm", type=VM, default="", help="Only of this VM.")(function)
    return click.option("--host", type=HOST, default="", help="Only of this host.")(function)


def object_id(app: App, host: str, vm: str, volume: str, resource: str) -> str:
    """The id of the object that the options name; empty when none was given. Asks for the object when it is named by
    name."""
    if sum(bool(value) for value in (host, vm, volume, resource)) > 1:
        raise click.UsageError("give at most one of --host, --vm, --volume, --resource")
    if host:
        from ostler.control.v1.host_pb2 import GetHostRequest

        return app.client.hosts.GetHost(GetHostRequest(host=host)).id
    if vm:
        from ostler.control.v1.vm_pb2 import GetVmRequest

        return app.client.vms.GetVm(GetVmRequest(vm=vm)).id
    if volume:
        from ostler.control.v1.volume_pb2 import GetVolumeRequest

        return app.client.volumes.GetVolume(GetVolumeRequest(volume=volume)).id
    return resource
