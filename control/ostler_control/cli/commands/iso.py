"""`ostler iso`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import click
from ostler.control.v1 import iso_pb2 as pb

from ostler_control.cli import text, transfers
from ostler_control.cli.app import App, pages, pass_app
from ostler_control.cli.labels import joined as labels_joined
from ostler_control.cli.labels import label_command, selector_option
from ostler_control.cli.lazy import Noun
from ostler_control.cli.names import ISO
from ostler_control.cli.options import confirm, limit_option, list_options, output_option, request_id_option, yes_option
from ostler_control.cli.output import Listing, View, print_list, print_one

VIEW = View[pb.Iso](
    "ISO image",
    columns=[
        ("name", lambda i: i.name),
        ("size", lambda i: text.size(i.file_size_bytes)),
        ("age", lambda i: text.age(i, "create_time")),
    ],
    details=[
        ("sha256", lambda i: i.sha256),
        ("labels", lambda i: labels_joined(i.labels)),
        ("id", lambda i: i.id),
    ],
)


@click.group(cls=Noun)
def command() -> None:
    """ISO images for the CD-ROM drives of VMs: installers, drivers."""


@command.command("upload")
@click.argument("name")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False, readable=True))
@click.option("--sha256", help="Expected digest.  [default: computed from the file]")
@request_id_option
@output_option
@pass_app
def upload(app: App, name: str, file: Path, sha256: str | None, request_id: str, output: str) -> None:
    """Uploads an ISO image to the control plane. A failed upload leaves nothing behind.

    \b
    Example:
      ostler iso upload debian-13-netinst debian-13.0.0-amd64-netinst.iso
    """
    with file.open("rb") as source:
        size_bytes = os.fstat(source.fileno()).st_size
        with transfers.progress(f"{name}: digest", size_bytes) as advance:
            digest = sha256 or transfers.digest(source, advance)
        header = pb.UploadIsoRequest.Header(request_id=request_id, name=name, file_size_bytes=size_bytes, sha256=digest)
        with transfers.progress(f"{name}: upload", size_bytes) as advance:
            iso = app.client.isos.UploadIso(_parts(header, source, advance))
    print_one(VIEW, iso, output)


@command.command("list")
@selector_option
@limit_option()
@list_options
@pass_app
def list_(app: App, selector: str, limit: int | None, listing: Listing) -> None:
    """Lists ISO images.

    \b
    Example:
      ostler iso list
    """
    request = pb.ListIsosRequest(selector=selector)
    print_list(VIEW, pages(app.client.isos.ListIsos, request, lambda a: a.isos, limit), listing)


@command.command("show")
@click.argument("iso", type=ISO)
@output_option
@pass_app
def show(app: App, iso: str, output: str) -> None:
    """Shows one ISO image.

    \b
    Example:
      ostler iso show debian-13-netinst
    """
    print_one(VIEW, app.client.isos.GetIso(pb.GetIsoRequest(iso=iso)), output)


@command.command("delete")
@click.argument("iso", type=ISO)
@yes_option
@pass_app
def delete(app: App, iso: str, yes: bool) -> None:
    """Deletes an ISO image that is in no VM's drive.

    \b
    Example:
      ostler iso delete debian-13-netinst --yes
    """
    confirm(f"Delete ISO image {iso}?", yes)
    app.client.isos.DeleteIso(pb.DeleteIsoRequest(iso=iso))
    click.echo(f"ISO image {iso} is deleted")


def _parts(
    header: pb.UploadIsoRequest.Header, source: BinaryIO, advance: Callable[[int], None]
) -> Iterator[pb.UploadIsoRequest]:
    yield pb.UploadIsoRequest(header=header)
    for data in transfers.pieces(source):
        yield pb.UploadIsoRequest(data=data)
        advance(len(data))


command.add_command(label_command("iso"))
