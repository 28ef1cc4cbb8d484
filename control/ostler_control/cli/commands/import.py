"""`ostler import`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import click
from ostler.control.v1 import import_pb2 as pb
from ostler.control.v1 import vm_pb2
from ostler_common.text import printable

from ostler_control.cli import passphrases, text
from ostler_control.cli.app import App, pages, pass_app
from ostler_control.cli.commands._import_files import image_command, ova_command
from ostler_control.cli.commands._import_kvm import (
    add_passphrases,
    client_certificate_option,
    known_hosts_option,
    kvm_command,
    kvm_source_command,
    passphrase_option,
    private_key_option,
    read_file,
    read_text,
)
from ostler_control.cli.commands._import_plan import plan_group
from ostler_control.cli.commands._import_spec import spec_options
from ostler_control.cli.commands._import_view import POWERS, SOURCE, SOURCE_VM, verdict
from ostler_control.cli.commands._import_volume import volume_command
from ostler_control.cli.commands._vm_view import VIEW as VM_VIEW
from ostler_control.cli.exits import Exit
from ostler_control.cli.finish import finish
from ostler_control.cli.labels import label_command, selector_option
from ostler_control.cli.lazy import Noun
from ostler_control.cli.names import IMPORT_SOURCE, VM
from ostler_control.cli.options import (
    CallOptions,
    F,
    confirm,
    dry_run_option,
    limit_option,
    list_options,
    operation_options,
    output_option,
    request_id_option,
    yes_option,
)
from ostler_control.cli.output import Listing, print_data, print_list, print_one

_ca_option = click.option(
    "--ca-file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="PEM file of the CA that signs the server's certificate.",
)
_thumbprint_option = click.option(
    "--thumbprint", default="", metavar="SHA256", help="SHA-256 thumbprint of the server's certificate."
)


def _password_option(help: str) -> Callable[[F], F]:
    return click.option("--password-file", type=click.Path(path_type=Path, dir_okay=False, allow_dash=True), help=help)


def _password(path: Path | None) -> bytes:
    if path is not None:
        return passphrases.read(path).reveal()
    if not sys.stdin.isatty():
        raise click.UsageError("nobody is there to type the password: add --password-file")
    typed: str = click.prompt("Password", hide_input=True, err=True)
    return typed.encode()


@click.group(cls=Noun)
def command() -> None:
    """Imports: VMs from VMware, from other KVM hosts and from files."""


@command.group("source", cls=Noun)
def source_group() -> None:
    """Servers that VMs are imported from."""


@source_group.group("add", cls=Noun)
def add() -> None:
    """Registers a server that VMs are imported from."""


@add.command("vmware")
@click.argument("name")
@click.option("--vcenter", required=True, metavar="HOST[:PORT]", help="vCenter, or a standalone ESXi host.")
@click.option("--username", required=True, help="User that Ostler logs in as.")
@_ca_option
@_thumbprint_option
@_password_option("The password is this file's first line; - is standard input.  [default: it is asked for]")
@dry_run_option
@request_id_option
@output_option
@pass_app
def vmware(
    app: App,
    name: str,
    vcenter: str,
    username: str,
    ca_file: Path | None,
    thumbprint: str,
    password_file: Path | None,
    dry_run: bool,
    request_id: str,
    output: str,
) -> None:
    """Registers a vCenter or a standalone ESXi host. Ostler logs in there to prove that it works.

    Give --ca-file or --thumbprint; the certificate is always verified.

    \b
    Examples:
      ostler import source add vmware vc1 --vcenter vc.example.org --username import@vsphere.local --ca-file vmca.pem
      ostler import source add vmware esx1 --vcenter 10.0.0.7 --username root --thumbprint 3b7f...
    """
    if bool(ca_file) == bool(thumbprint):
        raise click.UsageError("give exactly one of --ca-file and --thumbprint")
    request = pb.CreateImportSourceRequest(
        request_id=request_id,
        name=name,
        type="vmware",
        address=vcenter,
        username=username,
        password=_password(password_file),
        validate_only=dry_run,
    )
    if ca_file:
        request.ca_pem = ca_file.read_text()
    else:
        request.thumbprint = thumbprint
    found = app.client.imports.CreateImportSource(request)
    if dry_run and output == "table":
        click.echo(f"import source {name} can be registered")
    else:
        print_one(SOURCE, found, output)


@source_group.command("update")
@click.argument("source", type=IMPORT_SOURCE)
@click.option("--username", default="", help="User that Ostler logs in as.")
@_ca_option
@_thumbprint_option
@click.option("--ask-password", is_flag=True, help="Ask for a new password.")
@_password_option("The new password is this file's first line; - is standard input.")
@known_hosts_option
@client_certificate_option
@private_key_option
@output_option
@pass_app
def update(
    app: App,
    source: str,
    username: str,
    ca_file: Path | None,
    thumbprint: str,
    ask_password: bool,
    password_file: Path | None,
    known_hosts_file: Path | None,
    client_cert_file: Path | None,
    private_key_file: Path | None,
    output: str,
) -> None:
    """Changes the user, password or private key, or trust of a source.

    Ostler logs in there to prove that it works.

    \b
    Examples:
      ostler import source update vc1 --ask-password
      ostler import source update esx1 --thumbprint 3b7f...
      ostler import source update old1 --private-key-file id_new
    """
    if sum(map(bool, (ca_file, thumbprint, known_hosts_file))) > 1:
        raise click.UsageError("--ca-file, --thumbprint and --known-hosts exclude each other")
    keys = (known_hosts_file, client_cert_file, private_key_file)
    if not any((username, ca_file, thumbprint, ask_password, password_file, *keys)):
        raise click.UsageError(
            "nothing to change: give --username, --ca-file, --thumbprint, --ask-password, --password-file,"
            " --known-hosts, --client-cert-file, --private-key-file"
        )
    request = pb.UpdateImportSourceRequest(source=source, username=username)
    if ask_password or password_file:
        request.password = _password(password_file)
    if ca_file:
        request.ca_pem = ca_file.read_text()
    elif thumbprint:
        request.thumbprint = thumbprint
    elif known_hosts_file:
        request.known_hosts = read_text(known_hosts_file)
    if client_cert_file:
        request.client_certificate = read_text(client_cert_file)
    if private_key_file:
        request.private_key = read_file(private_key_file)
    print_one(SOURCE, app.client.imports.UpdateImportSource(request), output)


@source_group.command("list")
@selector_option
@limit_option()
@list_options
@pass_app
def list_sources(app: App, selector: str, limit: int | None, listing: Listing) -> None:
    """Lists import sources.

    \b
    Example:
      ostler import source list
    """
    request = pb.ListImportSourcesRequest(selector=selector)
    print_list(SOURCE, pages(app.client.imports.ListImportSources, request, lambda a: a.sources, limit), listing)


@source_group.command("show")
@click.argument("source", type=IMPORT_SOURCE)
@output_option
@pass_app
def show(app: App, source: str, output: str) -> None:
    """Shows an import source, and how it is verified.

    \b
    Example:
      ostler import source show vc1
    """
    print_one(SOURCE, app.client.imports.GetImportSource(pb.GetImportSourceRequest(source=source)), output)


@source_group.command("remove")
@click.argument("source", type=IMPORT_SOURCE)
@yes_option
@pass_app
def remove(app: App, source: str, yes: bool) -> None:
    """Deletes an import source and its password. Imported VMs stay.

    \b
    Example:
      ostler import source remove vc1 --yes
    """
    confirm(f"Delete import source {source}?", yes)
    app.client.imports.DeleteImportSource(pb.DeleteImportSourceRequest(source=source))
    click.echo(f"import source {source} is removed")


@command.command("list-vms")
@click.argument("source", type=IMPORT_SOURCE)
@click.option("--name", "name_contains", default="", help="Only those with this in their names.")
@click.option("--power", type=click.Choice(POWERS), help="Only those in this power state.")
@click.option("--place", default="", metavar="HOST|CLUSTER", help="Only those of this ESXi host or cluster.")
@limit_option()
@list_options
@pass_app
def list_vms(
    app: App, source: str, name_contains: str, power: str | None, place: str, limit: int | None, listing: Listing
) -> None:
    """Lists the VMs of a source.

    \b
    Example:
      ostler import list-vms vc1 --power off
    """
    request = pb.ListSourceVmsRequest(
        source=source,
        name_contains=name_contains,
        power=pb.SourceVm.Power.Value((power or "power_unspecified").upper()),
        place=place,
    )
    print_list(SOURCE_VM, pages(app.client.imports.ListSourceVms, request, lambda a: a.vms, limit), listing)


@command.command("check")
@spec_options
@passphrase_option
@output_option
@pass_app
def check(app: App, spec: pb.ImportSpec, passphrase_files: Sequence[str], output: str) -> None:
    """Tells what stands against an import, and changes nothing. The exit code is 1 when the import would be refused.

    \b
    Example:
      ostler import check vc1 web-1 --offering medium --network "VM Network=public"
    """
    add_passphrases(spec, passphrase_files)
    found = app.client.imports.CheckImport(pb.CheckImportRequest(spec=spec))
    if output == "table":
        _print_report(found)
    else:
        from ostler_control.cli.plain import to_plain

        print_data(to_plain(found), "json" if output in ("csv", "name") else output)
    if not found.go:
        raise click.exceptions.Exit(Exit.FAILED)


def _print_report(found: pb.CheckImportResponse) -> None:
    for finding in sorted(found.findings, key=lambda finding: -finding.severity):
        severity = text.enum_of(finding, "severity").upper()
        click.echo(printable(f"{severity:8} {finding.code}: {finding.message}"))
        if finding.remedy:
            click.echo(printable(f"         {finding.remedy}"))
    for line in verdict(found):
        click.echo(printable(line))


@command.command("vm")
@spec_options
@operation_options()
@pass_app
def vm(app: App, spec: pb.ImportSpec, call: CallOptions) -> None:
    """Imports a VM: exports it, converts it, and starts it here. The source is not changed.

    A running VM is cloned, and the clone is exported; a running Windows VM needs --shutdown. With --warm the VM runs
    until almost all of its data is here, and is shut down for the rest.

    \b
    Examples:
      ostler import vm vc1 web-1 --offering medium --network "VM Network=public"
      ostler import vm vc1 db-1 --offering large --network "VM Network=public" --warm --no-wait
    """
    request = pb.ImportVmRequest(request_id=call.request_id, spec=spec, validate_only=call.dry_run)
    finish(app, app.client.imports.ImportVm(request), VM_VIEW, vm_pb2.Vm(), call)


@command.command("cut-over")
@click.argument("vm", type=VM)
@yes_option
@pass_app
def cut_over(app: App, vm: str, yes: bool) -> None:
    """Ends a warm import: its source VM is shut down.

    That begins as soon as the first copy is complete.

    VM is the new VM, as in `ostler vm list`.

    \b
    Example:
      ostler import cut-over db-1 --yes
    """
    confirm(f"Shut down the source of VM {vm} and start the VM here?", yes)
    app.client.imports.CutOverImport(pb.CutOverImportRequest(vm=vm))
    click.echo(f"VM {vm} is cut over (ostler operation list)")


source_group.add_command(label_command("import source"))
command.add_command(ova_command)
add.add_command(kvm_source_command)
command.add_command(kvm_command)
command.add_command(image_command)
command.add_command(volume_command)
command.add_command(plan_group, "plan")
