"""`ostler userdata`."""

from __future__ import annotations

import base64
from pathlib import Path

import click
from ostler.control.v1 import userdata_pb2 as pb
from ostler_common.text import printable

from ostler_control.cli import text
from ostler_control.cli.app import App, pages, pass_app
from ostler_control.cli.labels import joined as labels_joined
from ostler_control.cli.labels import label_command, selector_option
from ostler_control.cli.lazy import Noun
from ostler_control.cli.names import ACCOUNT, TEMPLATE, USER_DATA, VM
from ostler_control.cli.options import confirm, limit_option, list_options, output_option, request_id_option, yes_option
from ostler_control.cli.output import Listing, View, print_data, print_list, print_one
from ostler_control.cli.plain import to_plain
from ostler_control.cli.user_data import FILE, UserDataOptions, read, user_data_options

VIEW = View[pb.UserData](
    "user data",
    columns=[
        ("name", lambda u: u.name),
        ("account", lambda u: u.account_name),
        ("format", lambda u: u.format),
        ("size", lambda u: text.size(u.size_bytes)),
        ("variables", lambda u: text.joined(u.variables)),
        ("templates", lambda u: text.joined(u.template_names)),
        ("age", lambda u: text.age(u, "create_time")),
    ],
    details=[("labels", lambda u: labels_joined(u.labels)), ("id", lambda u: u.id)],
)


@click.group(cls=Noun)
def command() -> None:
    """User data, which cloud-init in guests reads at boot."""


@command.command("register")
@click.argument("name")
@click.argument("file", type=FILE)
@click.option("--variable", "variables", multiple=True, metavar="NAME", help="Variable that it declares; repeat it.")
@click.option("--account", type=ACCOUNT, default="", help="Owner.  [default: your account]")
@request_id_option
@output_option
@pass_app
def register(
    app: App, name: str, file: Path, variables: tuple[str, ...], account: str, request_id: str, output: str
) -> None:
    """Checks a document and keeps it under a name.

    FILE may be - for standard input. The document is a cloud-config, a script, or anything else that cloud-init reads,
    plain, compressed with gzip, or in base64.

    \b
    Example:
      ostler userdata register web web.yaml --variable role
    """
    request = pb.RegisterUserDataRequest(
        request_id=request_id, name=name, account=account, data=read(file), variables=variables
    )
    print_one(VIEW, app.client.user_data.RegisterUserData(request), output)


@command.command("list")
@selector_option
@limit_option()
@list_options
@pass_app
def list_(app: App, selector: str, limit: int | None, listing: Listing) -> None:
    """Lists registered documents.

    \b
    Example:
      ostler userdata list
    """
    request = pb.ListUserDataRequest(selector=selector)
    rows = pages(app.client.user_data.ListUserData, request, lambda a: a.user_data, limit)
    print_list(VIEW, rows, listing)


@command.command("show")
@click.argument("user_data", type=USER_DATA)
@click.option("--content", is_flag=True, help="Print the document itself, and nothing else.")
@click.option("--base64", "encode", is_flag=True, help="With --content: in base64.")
@output_option
@pass_app
def show(app: App, user_data: str, content: bool, encode: bool, output: str) -> None:
    """Shows one document.

    \b
    Examples:
      ostler userdata show web
      ostler userdata show web --content
    """
    found = app.client.user_data.GetUserData(pb.GetUserDataRequest(user_data=user_data))
    if content:
        _print_bytes(found.data, encode)
        return
    print_one(VIEW, found, output)


@command.command("delete")
@click.argument("user_data", type=USER_DATA)
@yes_option
@pass_app
def delete(app: App, user_data: str, yes: bool) -> None:
    """Deletes a document. VMs that were given it keep their copy.

    \b
    Example:
      ostler userdata delete web --yes
    """
    confirm(f"Delete user data {user_data}?", yes)
    app.client.user_data.DeleteUserData(pb.DeleteUserDataRequest(user_data=user_data))
    click.echo(f"user data {user_data} is deleted")


@command.command("render")
@click.option("--template", type=TEMPLATE, default="", help="As if the VM were made from this template.")
@click.option("--vm", type=VM, default="", help="VM whose guest is meant.  [default: a new one]")
@user_data_options
@click.option(
    "--file",
    "only",
    type=click.Choice(["user-data", "meta-data", "network-config", "vendor-data"]),
    help="Print this file alone, byte for byte.",
)
@click.option("--base64", "encode", is_flag=True, help="With --file: in base64.")
@output_option
@pass_app
def render(
    app: App, template: str, vm: str, user_data: UserDataOptions, only: str | None, encode: bool, output: str
) -> None:
    """Shows what a guest will get.

    That is user data, merged by the template's policy, meta-data and network configuration. Without an option that
    gives user data, the VM's own is meant. Nothing is changed.

    \b
    Examples:
      ostler userdata render --vm web-1
      ostler userdata render --template debian-13 --vm web-1 --user-data-file web.yaml
      ostler userdata render --template debian-13 --file user-data
    """
    if not template and not vm:
        raise click.UsageError("give --template, --vm or both")
    request = pb.RenderUserDataRequest(template=template, vm=vm, user_data=user_data.message())
    answer = app.client.user_data.RenderUserData(request)
    files = {file.name: file.content for file in answer.files}
    if only:
        _print_bytes(files.get(only, b""), encode)
    elif output in ("json", "yaml"):
        print_data(to_plain(answer), output)
    elif output == "name":
        click.echo("\n".join(files))
    elif not files:
        click.echo("the guest gets no user data", err=True)
    else:
        for name, content in files.items():
            click.secho(f"--- {name}", bold=True)
            _print_text(content)


command.add_command(label_command("userdata"))


def _print_bytes(data: bytes, encode: bool) -> None:
    click.echo(base64.b64encode(data) if encode else data, nl=encode)


def _print_text(data: bytes) -> None:
    """What people can read; anything else by its size."""
    try:
        shown = "\t".join(map(printable, data.decode().split("\t")))
    except UnicodeDecodeError:
        shown = f"({len(data)} bytes; print them with --file)"
    click.echo(shown if shown.endswith("\n") else f"{shown}\n", nl=False)
