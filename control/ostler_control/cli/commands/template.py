"""`ostler template`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import click
from google.protobuf.field_mask_pb2 import FieldMask
from ostler.control.v1 import template_pb2 as pb
from ostler.control.v1 import userdata_pb2
from ostler.types.v1 import volume_pb2

from ostler_control.cli import passphrases, text, transfers
from ostler_control.cli.app import App, pages, pass_app
from ostler_control.cli.details import detail_option
from ostler_control.cli.finish import finish
from ostler_control.cli.firmware import FIRMWARES, firmware_of
from ostler_control.cli.labels import joined as labels_joined
from ostler_control.cli.labels import label_command, selector_option
from ostler_control.cli.lazy import Noun
from ostler_control.cli.names import HYPERVISOR_TYPE, SNAPSHOT, TEMPLATE, USER_DATA, VOLUME
from ostler_control.cli.options import (
    CallOptions,
    confirm,
    limit_option,
    list_options,
    operation_options,
    output_option,
    request_id_option,
    yes_option,
)
from ostler_control.cli.output import Listing, View, print_list, print_one
from ostler_control.cli.user_data import POLICIES

VIEW = View[pb.Template](
    "template",
    columns=[
        ("name", lambda t: t.name),
        ("format", lambda t: text.enum_of(t, "format")),
        ("firmware", lambda t: text.enum_of(t, "firmware")),
        ("hypervisor", lambda t: t.hypervisor_display_name or "any"),
        ("encrypted", lambda t: text.yes(t.encrypted)),
        ("disk", lambda t: text.size(t.virtual_size_bytes)),
        ("file", lambda t: text.size(t.file_size_bytes)),
        ("age", lambda t: text.age(t, "create_time")),
    ],
    details=[
        ("tpm", lambda t: text.yes(t.tpm)),
        ("sha256", lambda t: t.sha256),
        ("sha512", lambda t: t.sha512),
        ("url", lambda t: t.url),
        ("user data", lambda t: t.user_data_name),
        ("user data policy", lambda t: text.enum_of(t, "user_data_policy").upper() if t.user_data_name else ""),
        ("details", lambda t: text.joined(f"{key}={value}" for key, value in sorted(t.details.items()))),
        ("labels", lambda t: labels_joined(t.labels)),
        ("id", lambda t: t.id),
    ],
)

tpm_option = click.option("--tpm", is_flag=True, help="Give an emulated TPM 2.0 to VMs created from it.")


@click.group(cls=Noun)
def command() -> None:
    """Templates: disk images to create VMs from."""


@command.command("upload")
@click.argument("name")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False, readable=True))
@click.option(
    "--format", "layout", type=click.Choice(["qcow2", "raw"]), help="File layout.  [default: found in the file]"
)
@click.option(
    "--firmware",
    type=click.Choice(FIRMWARES),
    default="bios",
    show_default=True,
    help="Firmware of VMs created from it.",
)
@tpm_option
@click.option(
    "--hypervisor",
    type=HYPERVISOR_TYPE,
    default="",
    help="Hypervisor type it is for (ostler hypervisor list).  [default: all that support its format]",
)
@click.option("--sha256", help="Expected digest.  [default: computed from the file]")
@click.option("--user-data", type=USER_DATA, default="", help="Registered user data that it links.")
@click.option(
    "--user-data-policy",
    "policy",
    type=click.Choice(tuple(POLICIES), case_sensitive=False),
    help="Policy for user data given with a VM.  [default: ALLOWOVERRIDE]",
)
@detail_option("Setting that only one hypervisor type has, e.g. driver.kernel=...; repeatable, not for secrets.")
@request_id_option
@output_option
@pass_app
def upload(
    app: App,
    name: str,
    file: Path,
    layout: str | None,
    firmware: str,
    tpm: bool,
    hypervisor: str,
    sha256: str | None,
    user_data: str,
    policy: str | None,
    details: dict[str, str],
    request_id: str,
    output: str,
) -> None:
    """Uploads an image file to the control plane. A failed upload leaves nothing behind.

    \b
    Examples:
      ostler template upload debian-13 debian-13-genericcloud-amd64.qcow2 --firmware uefi
      ostler template upload windows-11 windows-11.qcow2 --firmware uefi-secure-boot --tpm
    """
    with file.open("rb") as source:
        size_bytes = os.fstat(source.fileno()).st_size
        found, _ = transfers.detect_format(source)
        with transfers.progress(f"{name}: digest", size_bytes) as advance:
            digest = sha256 or transfers.digest(source, advance)
        header = pb.UploadTemplateRequest.Header(
            request_id=request_id,
            name=name,
            format=volume_pb2.DiskFormat.Value(f"DISK_FORMAT_{(layout or found).upper()}"),
            firmware=firmware_of(firmware),
            tpm=tpm,
            file_size_bytes=size_bytes,
            hypervisor_type=hypervisor,
            sha256=digest,
            user_data=user_data,
            user_data_policy=_policy(policy),
            details=details,
        )
        with transfers.progress(f"{name}: upload", size_bytes) as advance:
            template = app.client.templates.UploadTemplate(_parts(header, source, advance))
    print_one(VIEW, template, output)


@command.command("register")
@click.argument("name")
@click.argument("url")
@click.option("--format", "layout", type=click.Choice(["qcow2", "raw"]), required=True, help="File layout.")
@click.option(
    "--firmware",
    type=click.Choice(FIRMWARES),
    default="bios",
    show_default=True,
    help="Firmware of VMs created from it.",
)
@tpm_option
@click.option(
    "--hypervisor",
    type=HYPERVISOR_TYPE,
    default="",
    help="Hypervisor type it is for (ostler hypervisor list).  [default: all that support its format]",
)
@click.option("--sha256", default="", help="The file's digest; this or --sha512 is required.")
@click.option("--sha512", default="", help="The file's digest; this or --sha256 is required.")
@click.option(
    "--ca-file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="PEM file of CAs to trust instead of the hosts' own.",
)
@click.option("--user-data", type=USER_DATA, default="", help="Registered user data that it links.")
@click.option(
    "--user-data-policy",
    "policy",
    type=click.Choice(tuple(POLICIES), case_sensitive=False),
    help="Policy for user data given with a VM.  [default: ALLOWOVERRIDE]",
)
@click.option("--dry-run", is_flag=True, help="Only check, including from a host.")
@detail_option("Setting that only one hypervisor type has, e.g. driver.kernel=...; repeatable, not for secrets.")
@request_id_option
@output_option
@pass_app
def register(
    app: App,
    name: str,
    url: str,
    layout: str,
    firmware: str,
    tpm: bool,
    hypervisor: str,
    sha256: str,
    sha512: str,
    ca_file: Path | None,
    user_data: str,
    policy: str | None,
    dry_run: bool,
    details: dict[str, str],
    request_id: str,
    output: str,
) -> None:
    """Registers an image that hosts download from an HTTPS server.

    Hosts fetch it by themselves when they first need it; one looks at its beginning at once. Addresses that are not of
    the public Internet are refused, unless the setting direct.download.allow.private says otherwise; there are
    direct.download.proxy and direct.download.max.size.

    \b
    Example:
      ostler template register debian-13 https://cloud.example.org/debian-13.raw --format raw --sha512 4a1f...
    """
    request = pb.RegisterTemplateRequest(
        request_id=request_id,
        name=name,
        url=url,
        format=volume_pb2.DiskFormat.Value(f"DISK_FORMAT_{layout.upper()}"),
        firmware=firmware_of(firmware),
        tpm=tpm,
        hypervisor_type=hypervisor,
        sha256=sha256,
        sha512=sha512,
        ca_pem=ca_file.read_bytes() if ca_file else b"",
        validate_only=dry_run,
        user_data=user_data,
        user_data_policy=_policy(policy),
        details=details,
    )
    template = app.client.templates.RegisterTemplate(request)
    if dry_run and output == "table":
        click.echo("The template would be registered like this. Nothing was changed.", err=True)
    print_one(VIEW, template, output)


@command.command("update")
@click.argument("template", type=TEMPLATE)
@click.option("--user-data", type=USER_DATA, default="", help="Registered user data that it links.")
@click.option(
    "--user-data-policy",
    "policy",
    type=click.Choice(tuple(POLICIES), case_sensitive=False),
    help="Policy for user data given with a VM.  [default: ALLOWOVERRIDE]",
)
@click.option("--no-user-data", "none", is_flag=True, help="Link none.")
@detail_option("Setting that only one hypervisor type has; replaces all that there are; repeatable.")
@click.option("--no-details", is_flag=True, help="Remove all details.")
@click.option("--tpm/--no-tpm", default=None, help="Give VMs created from it an emulated TPM 2.0, or none.")
@output_option
@pass_app
def update(
    app: App,
    template: str,
    user_data: str,
    policy: str | None,
    none: bool,
    details: dict[str, str],
    no_details: bool,
    tpm: bool | None,
    output: str,
) -> None:
    """Changes the user data, the details and the TPM of a template.

    VMs that are created or reinstalled from now on get the user data; others keep what they have. All VMs of the
    template get the details at their next start. VMs that are created from now on get a TPM, or none.

    \b
    Examples:
      ostler template update debian-13 --user-data base --user-data-policy APPEND
      ostler template update tiny --detail driver.kernel=/var/lib/kernels/vmlinux-6.12
      ostler template update windows-11 --tpm
    """
    if user_data and none:
        raise click.UsageError("--user-data and --no-user-data exclude each other")
    if details and no_details:
        raise click.UsageError("--detail and --no-details exclude each other")
    fields = {
        "user_data": user_data or none or policy,
        "details": details or no_details,
        "tpm": tpm is not None,
    }
    if not any(fields.values()):
        raise click.UsageError("give --user-data, --no-user-data, --detail, --no-details, --tpm or --no-tpm")
    mask = FieldMask(paths=[name for name, given in fields.items() if given])
    request = pb.UpdateTemplateRequest(
        template=template,
        user_data=user_data,
        user_data_policy=_policy(policy),
        update_mask=mask,
        details=details,
        tpm=bool(tpm),
    )
    print_one(VIEW, app.client.templates.UpdateTemplate(request), output)


def _policy(word: str | None) -> userdata_pb2.UserDataPolicy.ValueType:
    return POLICIES[word] if word else userdata_pb2.USER_DATA_POLICY_UNSPECIFIED


def _parts(
    header: pb.UploadTemplateRequest.Header, source: BinaryIO, advance: Callable[[int], None]
) -> Iterator[pb.UploadTemplateRequest]:
    yield pb.UploadTemplateRequest(header=header)
    for data in transfers.pieces(source):
        yield pb.UploadTemplateRequest(data=data)
        advance(len(data))


@command.command("create")
@click.argument("name")
@click.option("--volume", type=VOLUME, default="", help="Source volume; its VM must be stopped.")
@click.option("--snapshot", type=SNAPSHOT, default="", help="Source snapshot.")
@click.option(
    "--firmware",
    type=click.Choice(FIRMWARES),
    default="bios",
    show_default=True,
    help="Firmware of VMs created from it.",
)
@tpm_option
@passphrases.passphrase_file_option("Encrypt it under the passphrase in this file.  [default: you are asked]")
@passphrases.decrypt_option
@operation_options()
@pass_app
def create(
    app: App,
    name: str,
    volume: str,
    snapshot: str,
    firmware: str,
    tpm: bool,
    passphrase_file: Path | None,
    decrypt: bool,
    call: CallOptions,
) -> None:
    """Creates a template from a volume or a snapshot.

    That of an encrypted one stays encrypted, under a passphrase of yours. The control plane keeps it, sealed, so that
    VMs are made from the template without it, on encrypted disks only; it is destroyed with the template. --decrypt
    makes a template in clear, which every host that uses it keeps a copy of.

    \b
    Examples:
      ostler template create golden --volume web-1-root --passphrase-file passphrase
      ostler template create golden --snapshot web-1-nightly --firmware uefi --decrypt
    """
    if bool(volume) == bool(snapshot):
        raise click.UsageError("give either --volume or --snapshot")
    request = pb.CreateTemplateRequest(
        request_id=call.request_id,
        name=name,
        volume=volume,
        snapshot=snapshot,
        firmware=firmware_of(firmware),
        tpm=tpm,
        validate_only=call.dry_run,
    )
    encrypted = passphrases.is_encrypted(app.client, volume, snapshot)
    passphrases.say(request.encryption, passphrase_file, decrypt, encrypted)
    finish(app, app.client.templates.CreateTemplate(request), VIEW, pb.Template(), call)


@command.command("list")
@selector_option
@limit_option()
@list_options
@pass_app
def list_(app: App, selector: str, limit: int | None, listing: Listing) -> None:
    """Lists templates. DISK is the virtual size, FILE the size of the file.

    \b
    Example:
      ostler template list
    """
    request = pb.ListTemplatesRequest(selector=selector)
    print_list(VIEW, pages(app.client.templates.ListTemplates, request, lambda a: a.templates, limit), listing)


@command.command("show")
@click.argument("template", type=TEMPLATE)
@output_option
@pass_app
def show(app: App, template: str, output: str) -> None:
    """Shows one template.

    \b
    Example:
      ostler template show debian-13
    """
    print_one(VIEW, app.client.templates.GetTemplate(pb.GetTemplateRequest(template=template)), output)


@command.command("delete")
@click.argument("template", type=TEMPLATE)
@yes_option
@pass_app
def delete(app: App, template: str, yes: bool) -> None:
    """Deletes a template. Volumes created from it do not depend on it.

    \b
    Example:
      ostler template delete debian-13 --yes
    """
    confirm(f"Delete template {template}?", yes)
    app.client.templates.DeleteTemplate(pb.DeleteTemplateRequest(template=template))
    click.echo(f"template {template} is deleted")


command.add_command(label_command("template"))
