"""`ostler`: the command line of the fleet. Only names and one-line helps are known here; a command's module is imported
when it is used, and gRPC when it calls."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from ostler_control.cli.app import App
from ostler_control.cli.lazy import LazyGroup
from ostler_control.cli.profile import VARIABLE

COMMANDS = {
    "host": "Hypervisors: how they join, what they can do, maintenance.",
    "zone": "Zones: places with their own network and storage.",
    "cluster": "Clusters: like hosts, among which VMs move.",
    "hypervisor": "Types of hypervisor: what hosts' drivers say that they are and support.",
    "pool": "Storage pools: where volumes live.",
    "offering": "Sizes and kinds of VMs and disks to choose from.",
    "template": "Disk images that VMs are made from.",
    "vm": "Virtual machines: create, run, move, console.",
    "affinity": "VMs that want to be together or apart.",
    "volume": "Disks: create, grow, attach, encrypt.",
    "snapshot": "Volumes as they were: take, go back, keep on a schedule.",
    "drs": "Balancing: which VMs should move where, why, and moving them.",
    "key": "Keys that the passphrases of encrypted volumes are sealed under.",
    "operation": "Long-running work: follow, cancel.",
    "event": "Who did what to which object, when.",
    "user": "Users and their certificates.",
    "account": "Owners of VMs and volumes.",
    "setting": "Settings that can be changed while everything runs.",
    "completion": "Completion of commands and names for your shell.",
}


class Root(LazyGroup):
    """Turns whatever a command fails with into a message and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        from ostler_control.cli.failure import Failure, Interrupted, ostler_error

        try:
            return super().invoke(ctx)
        except (KeyboardInterrupt, click.Abort):
            raise Interrupted from None
        except Exception as e:
            error = ostler_error(e)
            if error is None:
                raise
            raise Failure(error, ctx.obj) from e


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
    help="Where the control plane is and who you are.  [default: ~/.config/ostler/profile.toml]",
)
@click.version_option(package_name="ostler", message="ostler %(version)s")
@click.pass_context
def root(ctx: click.Context, profile: Path | None) -> None:
    """Keeps a fleet of hypervisors."""
    ctx.obj = App(profile)


def main() -> None:
    """The console script."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # its log lines would stand between ours
    root(prog_name="ostler")
