"""`ostler account`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import click
from ostler.control.v1 import account_pb2 as pb

from ostler_control.cli import text
from ostler_control.cli.app import App, pages, pass_app
from ostler_control.cli.labels import joined as labels_joined
from ostler_control.cli.labels import label_command, selector_option
from ostler_control.cli.lazy import Noun
from ostler_control.cli.names import ACCOUNT
from ostler_control.cli.options import confirm, limit_option, list_options, output_option, request_id_option, yes_option
from ostler_control.cli.output import Listing, Section, View, print_list, print_one


def _amount(resource: str, amount: int) -> str:
    return text.size(amount) if resource.endswith("_bytes") else str(amount)


def _used(resource: str) -> Callable[[pb.Account], str]:
    def cell(account: pb.Account) -> str:
        return next((_amount(resource, quota.used) for quota in account.quotas if quota.resource == resource), "")

    return cell


def _quotas(account: pb.Account) -> Sequence[Sequence[str]]:
    rows = [
        (
            quota.resource.removesuffix("_bytes"),
            _amount(quota.resource, quota.used),
            _amount(quota.resource, quota.limit) if quota.HasField("limit") else "no limit",
        )
        for quota in account.quotas
    ]
    return [("resource", "used", "limit"), *rows]


VIEW = View[pb.Account](
    "account",
    columns=[
        ("name", lambda a: a.name),
        ("vms", _used("vms")),
        ("volumes", _used("volumes")),
        ("storage", _used("storage_bytes")),
        ("age", lambda a: text.age(a, "create_time")),
    ],
    details=[("labels", lambda a: labels_joined(a.labels)), ("id", lambda a: a.id)],
    sections=[Section("Quotas", _quotas)],
)


@click.group(cls=Noun)
def command() -> None:
    """Accounts, which own VMs and volumes."""


@command.command("create")
@click.argument("name")
@request_id_option
@output_option
@pass_app
def create(app: App, name: str, request_id: str, output: str) -> None:
    """Creates an account.

    \b
    Example:
      ostler account create research
    """
    request = pb.CreateAccountRequest(name=name, request_id=request_id)
    print_one(VIEW, app.client.accounts.CreateAccount(request), output)


@command.command("list")
@selector_option
@limit_option()
@list_options
@pass_app
def list_(app: App, selector: str, limit: int | None, listing: Listing) -> None:
    """Lists accounts.

    \b
    Example:
      ostler account list
    """
    request = pb.ListAccountsRequest(selector=selector)
    print_list(VIEW, pages(app.client.accounts.ListAccounts, request, lambda a: a.accounts, limit), listing)


@command.command("show")
@click.argument("account", type=ACCOUNT)
@output_option
@pass_app
def show(app: App, account: str, output: str) -> None:
    """Shows one account and its quotas.

    \b
    Example:
      ostler account show research
    """
    print_one(VIEW, app.client.accounts.GetAccount(pb.GetAccountRequest(account=account)), output)


@command.command("delete")
@click.argument("account", type=ACCOUNT)
@yes_option
@pass_app
def delete(app: App, account: str, yes: bool) -> None:
    """Deletes an account that owns nothing.

    \b
    Example:
      ostler account delete research --yes
    """
    confirm(f"Delete account {account}?", yes)
    app.client.accounts.DeleteAccount(pb.DeleteAccountRequest(account=account))
    click.echo(f"account {account} is deleted")


command.add_command(label_command("account"))
