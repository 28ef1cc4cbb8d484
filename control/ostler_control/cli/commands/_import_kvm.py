"""`ostler import kvm` and `ostler import source add kvm`: VMs of another KVM host."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import click
from ostler.control.v1 import import_pb2 as pb
from ostler.control.v1 import vm_pb2

from ostler_control.cli import passphrases
from ostler_control.cli.app import App, pass_app
from ostler_control.cli.commands._import_spec import kvm_spec_options
from ostler_control.cli.commands._import_view import SOURCE
from ostler_control.cli.commands._vm_view import VIEW as VM_VIEW
from ostler_control.cli.finish import finish
from ostler_control.cli.options import (
    CallOptions,
    F,
    dry_run_option,
    operation_options,
    output_option,
    request_id_option,
)
from ostler_control.cli.output import print_one

_MAX_FILE_BYTES = 64 << 10
_SSH_PORT = 22
_FILE = click.Path(path_type=Path, dir_okay=False, allow_dash=True)


private_key_option = click.option(
    "--private-key-file",
    type=_FILE,
    help="The private key to log in with, without a passphrase; - is standard input. It is kept sealed.",
)
client_certificate_option = click.option(
    "--client-cert-file", "client_cert_file", type=_FILE, help="The certificate to log in with through TLS, PEM."
)
known_hosts_option = click.option(
    "--known-hosts", "known_hosts_file", type=_FILE, help="File with the host's keys, as ssh's known_hosts has them."
)


def read_file(path: Path) -> bytes:
    """A small file, or standard input for "-". Raises UsageError."""
    try:
        if str(path) == "-":
            data = sys.stdin.buffer.read(_MAX_FILE_BYTES + 1)
        else:
            with path.open("rb") as file:
                data = file.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        raise click.UsageError(f"{path} cannot be read: {error.strerror}") from None
    if not 0 < len(data) <= _MAX_FILE_BYTES:
        raise click.UsageError(f"{path} must have 1 to {_MAX_FILE_BYTES} bytes")
    return data


def read_text(path: Path) -> str:
    """The same as text. Raises UsageError."""
    try:
        return read_file(path).decode()
    except UnicodeDecodeError:
        raise click.UsageError(f"{path} is not text in UTF-8") from None


def known_hosts_line(address: str, public_key: str) -> str:
    """The line of a known_hosts file for a host's public key. Raises UsageError."""
    kind, _, rest = public_key.strip().partition(" ")
    key = rest.split(" ", 1)[0]
    if not kind or not key or "\n" in public_key.strip():
        raise click.UsageError("--host-key must be a file with one public key, like /etc/ssh/ssh_host_ed25519_key.pub")
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdecimal() or (":" in host.strip("[]") and not address.startswith("[")):
        host, port = address, str(_SSH_PORT)
    host = host.strip("[]")
    name = host if int(port) == _SSH_PORT else f"[{host}]:{port}"
    return f"{name} {kind} {key}\n"


@click.command("kvm")
@click.argument("name")
@click.option("--host", "address", required=True, metavar="HOST[:PORT]", help="The KVM host, and its port.")
@click.option(
    "--username", help="User that ssh logs in as: may use libvirt and read the VMs' image files.  [default: root]"
)
@click.option("--host-key", "host_key_file", type=_FILE, help="File with the host's public key.")
@known_hosts_option
@click.option("--ca-file", type=_FILE, help="With TLS: certificate of the CA that signed libvirt's certificate, PEM.")
@client_certificate_option
@private_key_option
@dry_run_option
@request_id_option
@output_option
@pass_app
def kvm_source_command(
    app: App,
    name: str,
    address: str,
    username: str | None,
    host_key_file: Path | None,
    known_hosts_file: Path | None,
    ca_file: Path | None,
    client_cert_file: Path | None,
    private_key_file: Path | None,
    dry_run: bool,
    request_id: str,
    output: str,
) -> None:
    """Registers a KVM host that runs libvirt. A host of the fleet logs in there to prove that it works.

    Through ssh: give --host-key or --known-hosts. Through libvirt's TLS port: give --ca-file and --client-cert-file;
    the images must be in storage pools there. The host's key or certificate is always verified.

    \b
    Examples:
      ostler import source add kvm old1 --host old1.example.org --host-key old1.pub --private-key-file id_import
      ostler import source add kvm old2 --host old2 --ca-file ca.pem --client-cert-file me.pem --private-key-file key
    """
    if sum(map(bool, (host_key_file, known_hosts_file, ca_file))) != 1:
        raise click.UsageError("give exactly one of --host-key and --known-hosts, for ssh, and --ca-file, for TLS")
    if private_key_file is None:
        raise click.UsageError("give --private-key-file")
    if bool(ca_file) != bool(client_cert_file):
        raise click.UsageError("--ca-file and --client-cert-file go together")
    if ca_file and username:
        raise click.UsageError("--username is for ssh: with TLS the certificate says who asks")
    request = pb.CreateImportSourceRequest(
        request_id=request_id,
        name=name,
        type="kvm",
        address=address,
        private_key=read_file(private_key_file),
        validate_only=dry_run,
    )
    if ca_file and client_cert_file:
        request.ca_pem, request.client_certificate = read_text(ca_file), read_text(client_cert_file)
    else:
        request.username = username or "root"
        request.known_hosts = _known_hosts(address, host_key_file, known_hosts_file)
    found = app.client.imports.CreateImportSource(request)
    if dry_run and output == "table":
        click.echo(f"import source {name} can be registered")
    else:
        print_one(SOURCE, found, output)


def _known_hosts(address: str, host_key_file: Path | None, known_hosts_file: Path | None) -> str:
    if known_hosts_file:
        return read_text(known_hosts_file)
    assert host_key_file is not None
    return known_hosts_line(address, read_text(host_key_file))


def passphrase_option(function: F) -> F:
    """--passphrase-file KEY=FILE, as parameter `passphrase_files`: see `add_passphrases`."""
    return click.option(
        "--passphrase-file",
        "passphrase_files",
        multiple=True,
        metavar="KEY=FILE",
        help="Passphrase of a disk that LUKS encrypts on a KVM host: the file's first line; KEY is the disk's number"
        " from 1. May be repeated.",
    )(function)


def add_passphrases(spec: pb.ImportSpec, values: Sequence[str]) -> None:
    """Puts passphrases into a specification. Raises UsageError."""
    disks = {disk.key: disk for disk in spec.disks}
    for value in values:
        key, equals, path = value.partition("=")
        if not key.isdecimal() or not equals or not path:
            raise click.UsageError("--passphrase-file must be KEY=FILE")
        disk = disks.get(int(key)) or spec.disks.add(key=int(key))
        disks[disk.key] = disk
        disk.passphrase = passphrases.read(Path(path)).reveal()


@click.command("kvm")
@kvm_spec_options
@passphrase_option
@operation_options()
@pass_app
def kvm_command(app: App, spec: pb.ImportSpec, passphrase_files: Sequence[str], call: CallOptions) -> None:
    """Imports a VM of another KVM host.

    Its disks are copied, and it starts here. The source is not changed. A running VM is copied as of one moment, as
    after a power failure, and runs on.

    \b
    Examples:
      ostler import kvm old1 web --offering medium --network default=public
      ostler import kvm old1 vault --offering medium --network br0=public --passphrase-file 1=vault.txt
    """
    add_passphrases(spec, passphrase_files)
    request = pb.ImportVmRequest(request_id=call.request_id, spec=spec, validate_only=call.dry_run)
    finish(app, app.client.imports.ImportVm(request), VM_VIEW, vm_pb2.Vm(), call)
