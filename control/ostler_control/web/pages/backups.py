"""The list of backups and their stores, a backup's own page, and what can be done with it."""

from __future__ import annotations

from google.longrunning.operations_pb2 import Operation
from ostler.client.paging import pages
from ostler.control.v1 import backup_pb2 as pb
from starlette.requests import Request
from starlette.responses import Response

from ostler_control.cli import text
from ostler_control.cli.app import App
from ostler_control.cli.commands import backup
from ostler_control.cli.commands._backup_store import VIEW as STORE
from ostler_control.web import tables
from ostler_control.web.actions import Action, Actions, Target
from ostler_control.web.context import Console, command
from ostler_control.web.forms import Button, Call, Option
from ostler_control.web.labels import label_action
from ostler_control.web.objects import render_object
from ostler_control.web.pages import backup_schedules

MAX_STORES = 200
_READY = frozenset({"ready"})


def backups(console: Console, request: Request) -> Response:
    """The page of backups and their schedules; for admins with the stores that hold them."""
    client = console.app.client.backups
    filters = tables.Filters(request, ("vm", "VM"), ("account", "Account"), ("selector", "Labels"))
    answer = client.ListBackups(
        pb.ListBackupsRequest(
            page_size=tables.PAGE_SIZE,
            page_token=filters.page,
            vm=filters["vm"],
            account=filters["account"],
            selector=filters["selector"],
        )
    )
    following = filters.next(answer.next_page_token)
    shown = [
        tables.table(backup.VIEW, answer.backups, "Backups of VMs", href, next=following),
        backup_schedules.table(console.app),
    ]
    if console.is_admin:
        stores = pages(client.ListBackupStores, pb.ListBackupStoresRequest(), lambda a: a.stores, MAX_STORES)
        shown.append(tables.table(STORE, stores, "Stores"))
    return console.render(
        request,
        "tables.html",
        title="Backups",
        here="/backups",
        command=command("backup", "list", *filters.words()),
        filters=filters.fields,
        tables=shown,
    )


def one_backup(console: Console, request: Request) -> Response:
    """The page of a backup."""
    found = console.app.client.backups.GetBackup(pb.GetBackupRequest(backup=request.path_params["backup"]))
    target = _target(found)
    files = [Button("Files", f"{target.href}/files")] if target.state in _READY else []
    return render_object(
        console,
        request,
        target,
        ("backup", "show", found.name),
        backup.VIEW,
        found,
        notice=found.state_reason or found.verify_error,
        buttons=[*files, *ACTIONS.buttons(console, target)],
        links=[
            ("All backups of the VM", tables.address("/backups", {"vm": found.vm_id})),
            ("Its operations", tables.address("/operations", {"resource": found.id})),
        ],
    )


def href(found: pb.Backup) -> str:
    """Address of a backup's page."""
    return tables.path("backups", found.id)


def _target(found: pb.Backup) -> Target:
    return Target(found.id, found.name, "backup", text.enum_of(found, "state"), "/backups", href(found))


def _find(app: App, id_: str) -> Target:
    return _target(app.client.backups.GetBackup(pb.GetBackupRequest(backup=id_)))


def _restore(app: App, call: Call) -> Operation:
    return app.client.backups.RestoreVm(
        pb.RestoreVmRequest(
            request_id=call.request_id,
            backup=call.target,
            name=call.text("name"),
            service_offering=call.text("offering"),
            pool=call.text("pool"),
            keep_macs=call.flag("keep-macs"),
            without_nics=call.flag("without-nics"),
        )
    )


def _restore_disk(app: App, call: Call) -> Operation:
    return app.client.backups.RestoreVolume(
        pb.RestoreVolumeRequest(
            request_id=call.request_id,
            backup=call.target,
            slot=call.number("disk"),
            name=call.text("name"),
            pool=call.text("pool"),
        )
    )


def _restore_over(app: App, call: Call) -> Operation:
    return app.client.backups.RestoreVmOver(pb.RestoreVmOverRequest(request_id=call.request_id, backup=call.target))


def _verify(app: App, call: Call) -> Operation:
    return app.client.backups.VerifyBackup(pb.VerifyBackupRequest(request_id=call.request_id, backup=call.target))


def _boot(app: App, call: Call) -> Operation:
    return app.client.backups.VerifyBackup(
        pb.VerifyBackupRequest(
            request_id=call.request_id,
            backup=call.target,
            boot=True,
            boot_timeout_s=call.number("timeout") if call.text("timeout") else 0,
            console_text=call.text("console-text"),
        )
    )


def _delete(app: App, call: Call) -> Operation:
    return app.client.backups.DeleteBackup(pb.DeleteBackupRequest(request_id=call.request_id, backup=call.target))


_POOL = Option("pool", "Pool (empty: as before, or one that fits)")

ACTIONS = Actions(
    "/backups",
    _find,
    (
        Action(
            "restore",
            ("backup", "restore"),
            "Restore to a new VM",
            "Restore backup {name} to a new VM? It has new keys, and is stopped at first.",
            _restore,
            _READY,
            (
                Option("name", "Name of the new VM", is_required=True),
                Option("offering", "Service offering (empty: the VM's)"),
                _POOL,
                Option("keep-macs", "Keep the MAC addresses, which must be free", is_flag=True),
                Option("without-nics", "Without network interfaces", is_flag=True),
            ),
        ),
        Action(
            "restore-disk",
            ("backup", "restore"),
            "Restore one disk",
            "Restore one disk of backup {name} to a new volume?",
            _restore_disk,
            _READY,
            (
                Option("disk", "Slot of the disk, such as 1", is_required=True),
                Option("name", "Name of the new volume", is_required=True),
                _POOL,
            ),
        ),
        Action(
            "boot",
            ("backup", "verify"),
            "Test boot",
            "Boot a VM from backup {name}, without network, and delete it once its guest is up?",
            _boot,
            _READY,
            (
                Option("timeout", "Seconds for it (empty: 300)"),
                Option("console-text", "What the console shows in the end (empty: login:)"),
            ),
            fixed=("--boot",),
        ),
        Action("verify", ("backup", "verify"), "Verify", "Read backup {name} whole, and compare it?", _verify, _READY),
        Action(
            "restore-over",
            ("backup", "restore"),
            "Restore over the VM",
            "Restore backup {name} over its VM, and lose everything written since? The VM must be stopped.",
            _restore_over,
            _READY,
            fixed=("--over", "--yes"),
            is_dangerous=True,
        ),
        label_action("backup"),
        Action(
            "delete",
            ("backup", "delete"),
            "Delete",
            "Delete backup {name} with its keys? The VM is not changed.",
            _delete,
            _READY | frozenset({"failed"}),
            fixed=("--yes",),
            is_dangerous=True,
        ),
    ),
)
