"""`ostler vm guest`: what the guest agent in a VM can do."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click
from ostler.control.v1 import vm_pb2 as pb
from ostler.types.v1 import guest_pb2

from ostler_control.cli import passphrases, text
from ostler_control.cli.app import App, pass_app
from ostler_control.cli.lazy import Noun
from ostler_control.cli.names import VM
from ostler_control.cli.options import output_option
from ostler_control.cli.output import Section, View, print_one
from ostler_control.cli.user_data import FILE, public_keys


def _file_systems(info: guest_pb2.GuestInfo) -> Sequence[Sequence[str]]:
    rows = [
        (f.mount_point, f.type, f.device, text.size(f.total_bytes), text.size(f.used_bytes)) for f in info.file_systems
    ]
    return [("mounted on", "type", "device", "size", "used"), *rows]


def _interfaces(info: guest_pb2.GuestInfo) -> Sequence[Sequence[str]]:
    return [("name", "mac", "addresses"), *((i.name, i.mac, text.joined(i.addresses)) for i in info.interfaces)]


def _users(info: guest_pb2.GuestInfo) -> Sequence[Sequence[str]]:
    return [("user", "domain", "logged in"), *((u.name, u.domain, text.when(u, "login_time")) for u in info.users)]


VIEW = View[guest_pb2.GuestInfo](
    "guest",
    columns=[
        ("host name", lambda i: i.host_name),
        ("os", lambda i: i.os_name),
        ("os version", lambda i: i.os_version),
        ("kernel", lambda i: i.kernel),
        ("guest agent", lambda i: i.agent_version),
        ("time", lambda i: text.when(i, "time")),
        ("time of the host", lambda i: text.when(i, "host_time")),
        ("time zone", lambda i: i.time_zone),
    ],
    sections=[
        Section("File systems", _file_systems),
        Section("Network interfaces", _interfaces),
        Section("Users", _users),
    ],
    name=lambda i: i.host_name,
)


@click.group("guest", cls=Noun)
def guest() -> None:
    """What the guest agent in a running VM tells and does."""


@guest.command("info")
@click.argument("vm", type=VM)
@output_option
@pass_app
def info(app: App, vm: str, output: str) -> None:
    """Shows what the guest says of itself.

    Its operating system, file systems, interfaces, users and time. A guest can say anything.

    \b
    Example:
      ostler vm guest info web-1
    """
    print_one(VIEW, app.client.vms.ReadGuestInfo(pb.ReadGuestInfoRequest(vm=vm)), output)


@guest.command("sync-time")
@click.argument("vm", type=VM)
@pass_app
def sync_time(app: App, vm: str) -> None:
    """Sets the guest's clock to its host's time.

    \b
    Example:
      ostler vm guest sync-time web-1
    """
    app.client.vms.SyncGuestTime(pb.SyncGuestTimeRequest(vm=vm))
    click.echo(f"the clock of VM {vm} is set")


@guest.command("set-password")
@click.argument("vm", type=VM)
@click.argument("user")
@click.option(
    "--password-file",
    type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
    help="The password is this file's first line; - is standard input.  [default: it is asked for]",
)
@pass_app
def set_password(app: App, vm: str, user: str, password_file: Path | None) -> None:
    """Sets the password of USER in the guest.

    Ostler keeps it nowhere. USER must exist.

    \b
    Examples:
      ostler vm guest set-password web-1 root
      ostler vm guest set-password web-1 root --password-file new-password
    """
    password = passphrases.password(password_file, f"New password of {user}")
    request = pb.SetGuestPasswordRequest(vm=vm, guest_user=user, password=password.reveal())
    app.client.vms.SetGuestPassword(request)
    click.echo(f"the password of {user} in VM {vm} is set")


@guest.command("set-ssh-keys")
@click.argument("vm", type=VM)
@click.argument("user")
@click.option(
    "--key-file",
    "files",
    type=FILE,
    multiple=True,
    required=True,
    help="File with public keys; repeat it; - is standard input.",
)
@click.option("--keep-others", is_flag=True, help="Add to the keys that USER has.  [default: replace them]")
@pass_app
def set_ssh_keys(app: App, vm: str, user: str, files: Sequence[Path], keep_others: bool) -> None:
    """Sets the SSH keys that may log in as USER in the guest.

    USER must exist. Its other keys are removed, unless --keep-others is given.

    \b
    Examples:
      ostler vm guest set-ssh-keys web-1 root --key-file id_ed25519.pub
      ostler vm guest set-ssh-keys web-1 root --key-file new.pub --keep-others
    """
    keys = [line for file in files for line in public_keys(file)]
    request = pb.SetGuestSshKeysRequest(vm=vm, guest_user=user, ssh_keys=keys, keep_others=keep_others)
    app.client.vms.SetGuestSshKeys(request)
    click.echo(f"the SSH keys of {user} in VM {vm} are set")
