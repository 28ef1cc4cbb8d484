"""Going on with VMs that were stranded on their way: when their hosts can be asked again, they are."""

from __future__ import annotations

import contextlib
import datetime
import json
from typing import Any

from ostler_common.errors import AbortedError

from ostler_control.database import session, transaction
from ostler_control.events import SYSTEM
from ostler_control.hosts.rows import is_up
from ostler_control.models import Operation, Vm, now
from ostler_control.operations import Run, chore, launch, record_operation, workflow
from ostler_control.vms.migrate import settle, tidy_up

# With one host back the other may still be needed; asking in vain takes minutes and writes events.
_PAUSE = datetime.timedelta(minutes=5)


@chore
def resolve_stranded() -> None:
    """Begins a `vm.resolve` for every VM that is `migrating`, held by no operation, and has a host that answers."""
    with session():
        ready = [vm for vm in Vm.select().where((Vm.state == "migrating") & (Vm.operation_id == "")) if _ready(vm)]
    for vm in ready:
        with contextlib.suppress(AbortedError):  # somebody else was faster
            with transaction():
                operation = record_operation("vm.resolve", vm, SYSTEM, _inputs(vm))
            launch(operation)


def _ready(vm: Any) -> bool:
    up = [is_up(host) for host in (vm.host, vm.destination) if host is not None]
    if all(up):
        return True
    tried: Any = Operation.select().where((Operation.resource_id == vm.id) & (Operation.end_time > now() - _PAUSE))
    return any(up) and not tried.exists()


def _inputs(vm: Any) -> dict[str, Any]:
    """Those of the migration that broke off."""
    query = Operation.select().where((Operation.resource_id == vm.id) & (Operation.verb == "vm.migrate"))
    migration: Any = query.order_by(Operation.create_time.desc()).get()
    return {**json.loads(migration.inputs), "move_id": migration.id}


@workflow("vm.resolve")
def _resolve(run: Run) -> None:
    if settle(run):
        tidy_up(run)
