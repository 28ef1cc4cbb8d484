"""`ostler user`."""

from __future__ import annotations

import shutil
from pathlib import Path

import click
from ostler.control.v1 import account_pb2 as pb

from ostler_control.cli import text
from ostler_control.cli.app import App, pages, pass_app
from ostler_control.cli.labels import joined as labels_joined
from ostler_control.cli.labels import label_command, selector_option
from ostler_control.cli.lazy import Noun
from ostler_control.cli.names import ACCOUNT, USER
from ostler_control.cli.options import confirm, limit_option, list_options, output_option, request_id_option, yes_option
from ostler_control.cli.output import Listing, View, print_list, print_one

VIEW = View[pb.User](
    "user",
    columns=[
        ("name", lambda u: u.name),
        ("role", lambda u: text.enum_of(u, "role")),
        ("account", lambda u: u.account_name),
        ("certificate ends", lambda u: text.when(u, "certificate_expire_time")),
    ],
    details=[
        ("created", lambda u: text.when(u, "create_time")),
        ("labels", lambda u: labels_joined(u.labels)),
        ("id", lambda u: u.id),
    ],
)


@click.group(cls=Noun)
def command() -> None:
    """Users and their certificates."""


@command.command("create")
@click.argument("name")
@click.option("--role", type=click.Choice(["admin", "member"]), default="member", show_default=True, help="Role.")
@click.option("--account", type=ACCOUNT, default="", help="Account of the user; required for members.")
@click.option(
    "--directory",
    type=click.Path(path_type=Path, file_okay=False),
    help="New directory for key, certificate and profile.  [default: ./NAME.ostler]",
)
@request_id_option
@output_option
@pass_app
def create(app: App, name: str, role: str, account: str, directory: Path | None, request_id: str, output: str) -> None:
    """Creates a user.

    Writes key, certificate and profile to a directory to hand over to the user.

    The private key is made here: the control plane sees a certificate request only. Give the directory to the user over
    a safe way and keep no copy.

    \b
    Examples:
      ostler account create research
      ostler user create ada --account research
      ostler --profile ada.ostler/profile.toml user whoami
    """
    from ostler_control.cli import credentials

    if role == "member" and not account:
        raise click.UsageError("a member needs an account: add --account")
    directory = directory or Path(f"{name}.ostler")
    pending = credentials.new(name, app.profile.control_address, directory)
    request = pb.CreateUserRequest(
        request_id=request_id,
        name=name,
        role=pb.User.Role.Value(role.upper()),
        account=account,
        csr_pem=pending.csr_pem,
    )
    try:
        answer = app.client.users.CreateUser(request)
    except BaseException:
        shutil.rmtree(directory)
        raise
    profile = credentials.complete(pending, answer.certificate_pem, answer.ca_pem)
    print_one(VIEW, answer.user, output)
    click.echo(
        f"Key, certificate and profile are in {directory}. To use them: ostler --profile {profile} ...", err=True
    )


@command.command("list")
@selector_option
@limit_option()
@list_options
@pass_app
def list_(app: App, selector: str, limit: int | None, listing: Listing) -> None:
    """Lists users.

    \b
    Example:
      ostler user list
    """
    print_list(
        VIEW,
        pages(app.client.users.ListUsers, pb.ListUsersRequest(selector=selector), lambda a: a.users, limit),
        listing,
    )


@command.command("show")
@click.argument("user", type=USER)
@output_option
@pass_app
def show(app: App, user: str, output: str) -> None:
    """Shows one user.

    \b
    Example:
      ostler user show ada
    """
    print_one(VIEW, app.client.users.GetUser(pb.GetUserRequest(user=user)), output)


@command.command("whoami")
@output_option
@pass_app
def whoami(app: App, output: str) -> None:
    """Shows your identity as the control plane sees it.

    \b
    Example:
      ostler user whoami
    """
    print_one(VIEW, app.client.users.WhoAmI(pb.WhoAmIRequest()), output)


@command.command("renew")
@click.argument("user", type=USER, required=False)
@click.option(
    "--directory",
    type=click.Path(path_type=Path, file_okay=False),
    help="For another user: new directory for key, certificate and profile.  [default: ./USER.ostler]",
)
@output_option
@pass_app
def renew(app: App, user: str | None, directory: Path | None, output: str) -> None:
    """Issues a new certificate for a new key.

    Your own replaces the one in your profile; that of another user goes into a directory.

    \b
    Examples:
      ostler user renew
      ostler user renew ada
    """
    from ostler_control.cli import credentials

    me = app.client.users.WhoAmI(pb.WhoAmIRequest())
    if user is None or user in (me.name, me.id):
        if directory is not None:
            raise click.UsageError("your own certificate goes into your profile: omit --directory")
        key_pem, csr_pem = credentials.request(me.name)
        answer = app.client.users.IssueUserCertificate(pb.IssueUserCertificateRequest(user=me.id, csr_pem=csr_pem))
        credentials.replace(app.profile, key_pem, answer.certificate_pem, answer.ca_pem)
        print_one(VIEW, answer.user, output)
        return
    other = app.client.users.GetUser(pb.GetUserRequest(user=user))
    directory = directory or Path(f"{other.name}.ostler")
    pending = credentials.new(other.name, app.profile.control_address, directory)
    try:
        request = pb.IssueUserCertificateRequest(user=other.id, csr_pem=pending.csr_pem)
        answer = app.client.users.IssueUserCertificate(request)
    except BaseException:
        shutil.rmtree(directory)
        raise
    credentials.complete(pending, answer.certificate_pem, answer.ca_pem)
    print_one(VIEW, answer.user, output)
    click.echo(f"Key, certificate and profile are in {directory}.", err=True)


@command.command("revoke")
@click.argument("user", type=USER)
@yes_option
@output_option
@pass_app
def revoke(app: App, user: str, yes: bool, output: str) -> None:
    """Revokes every certificate of a user, at once. `ostler user renew USER` issues a new one.

    \b
    Example:
      ostler user revoke ada --yes
    """
    confirm(f"Revoke all certificates of {user}?", yes)
    print_one(VIEW, app.client.users.RevokeUser(pb.RevokeUserRequest(user=user)), output)


@command.command("delete")
@click.argument("user", type=USER)
@yes_option
@pass_app
def delete(app: App, user: str, yes: bool) -> None:
    """Deletes a user and revokes their certificates. Objects of the account stay.

    \b
    Example:
      ostler user delete ada --yes
    """
    confirm(f"Delete user {user}?", yes)
    app.client.users.DeleteUser(pb.DeleteUserRequest(user=user))
    click.echo(f"user {user} is deleted")


command.add_command(label_command("user"))
