"""`ostler`: the command line of the fleet. Only names and one-line helps are known here; a command's module is imported
when it is used, and gRPC when it calls."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import click
from ostler.client.profile import VARIABLE

from ostler_control.cli.app import App
from ostler_control.cli.lazy import LazyGroup

COMMANDS = {
    "host": "Hosts: join, capabilities, maintenance.",
    "zone": "Zones: locations with their own network and storage.",
    "cluster": "Clusters: hosts of one kind that VMs migrate between.",
    "hypervisor": "Hypervisor types that hosts report, and what each supports.",
    "network": "Networks: bridges that accounts may put their VMs on.",
    "pool": "Storage pools, which hold volumes.",
    "offering": "Service offerings (VM sizes) and disk offerings (volume kinds).",
    "template": "Templates: disk images to create VMs from.",
    "iso": "ISO images for the CD-ROM drives of VMs: installers, drivers.",
    "userdata": "User data, which cloud-init in guests reads at boot.",
    "vm": "Virtual machines: create, start, migrate, console.",
    "nic": "Network interfaces of VMs: add, remove, link.",
    "affinity": "Affinity groups: VMs to keep together or apart, or on some hosts or off them.",
    "volume": "Volumes: create, grow, attach, encrypt.",
    "snapshot": "Volume snapshots: create, revert, schedule.",
    "backup": "Backups of VMs: create, verify, restore, schedule.",
    "import": "Imports: VMs from VMware, from other KVM hosts and from files.",
    "drs": "Load balancing: plan and execute live migrations.",
    "ha": "High availability: VMs of a failed host start on other hosts.",
    "fence": "Fence devices, which switch the power of hosts.",
    "key": "Key-encryption keys, which seal the passphrases of volumes.",
    "operation": "Long-running operations: list, wait, cancel.",
    "event": "Audit log: who did what to which object, and when.",
    "user": "Users and their certificates.",
    "account": "Accounts, which own VMs and volumes.",
    "setting": "Settings, which take effect without a restart.",
    "explain": "Explains a reason code, the word in brackets after an error.",
    "inventory": "Inventory of VMs for other tools, such as Ansible.",
    "web": "Web console on loopback, for your browser.",
    "completion": "Prints the completion script for your shell.",
}


# How long a command waits at its end for whoever collects traces.
_EXPORT_TIMEOUT_S = 3


class Root(LazyGroup):
    """Turns whatever a command fails with into a message and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        from ostler_common import tracing
        from ostler_common.errors import OstlerError

        from ostler_control.cli.failure import Failure, Interrupted

        try:
            with tracing.span("ostler"):  # the client gives it the command's name
                return super().invoke(ctx)
        except (KeyboardInterrupt, click.Abort):
            raise Interrupted from None
        except OstlerError as error:
            raise Failure(error, ctx.obj) from error


@click.group(
    cls=Root,
    package="ostler_control.cli.commands",
    entries=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="`ostler NOUN --help` lists the verbs of a noun, `ostler NOUN VERB --help` gives an example.",
)
@click.option(
    "--profile",
    type=click.Path(path_type=Path, dir_okay=False),
    envvar=VARIABLE,
    help="Address of the control plane and your credentials.  [default: ~/.config/ostler/profile.toml]",
)
@click.version_option(package_name="ostler", message="ostler %(version)s")
@click.pass_context
def root(ctx: click.Context, profile: Path | None) -> None:
    """Manages a fleet of hypervisors."""
    ctx.obj = App(profile)


def main() -> None:
    """The console script."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # its log lines would stand between ours
    from ostler_common import tracing

    # A collector that does not answer is no failure of the command.
    logging.getLogger("opentelemetry").addHandler(logging.NullHandler())
    tracing.enable("ostler", timeout_s=_EXPORT_TIMEOUT_S)
    root(prog_name="ostler")
