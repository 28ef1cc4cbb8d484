"""`ostler inventory`."""

from __future__ import annotations

import click
from ostler.control.v1 import vm_pb2 as pb
from ostler_common.errors import NotFoundError

from ostler_control.cli import ansible
from ostler_control.cli.app import App, pages, pass_app
from ostler_control.cli.labels import selector_option
from ostler_control.cli.names import ACCOUNT
from ostler_control.cli.output import print_data


@click.command()
@click.option("--ansible", "for_ansible", is_flag=True, help="As JSON for Ansible.")
@click.option("--list", "_list", is_flag=True, help="All VMs and their groups (default).")
@click.option("--host", "name", default="", metavar="NAME", help="Only the variables of this VM.")
@click.option("--account", type=ACCOUNT, default="", help="Only VMs of this account.")
@selector_option
@pass_app
def command(app: App, for_ansible: bool, _list: bool, name: str, account: str, selector: str) -> None:
    """Inventory of VMs for other tools, such as Ansible.

    VMs are grouped by account, zone, cluster, host, state and label. Ansible calls a script with --list or --host;
    this is one:

    \b
      #!/bin/sh
      exec ostler inventory --ansible "$@"

    \b
    Examples:
      ostler inventory --ansible --selector env=prod
      ansible-playbook -i ./ostler-inventory site.yml --limit label_tier_web
    """
    if not for_ansible:
        raise click.UsageError("say for which tool: --ansible")
    if name and _list:
        raise click.UsageError("--list and --host exclude each other")
    request = pb.ListVmsRequest(account=account, selector=selector)
    vms = list(pages(app.client.vms.ListVms, request, lambda answer: answer.vms))
    if not name:
        print_data(ansible.inventory(vms), "json")
        return
    hosts = ansible.by_name(vms)
    if name not in hosts:
        raise NotFoundError(f"there is no VM {name} in the inventory", "VM_NOT_FOUND", {"vm": name})
    print_data(ansible.variables(hosts[name]), "json")
