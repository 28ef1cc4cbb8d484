"""Resolving broken-off migrations once their hosts answer again."""

from __future__ import annotations

import contextlib
import datetime
from dataclasses import replace

from ostler_common.errors import AbortedError

from ostler_control.database import session, transaction
from ostler_control.events import SYSTEM
from ostler_control.hosts.rows import has_returned, is_proved_off, is_up
from ostler_control.keys import Keyring
from ostler_control.models import Operation, Vm, VmState, now
from ostler_control.operations import Run, launch, periodic, read_inputs, record_operation, workflow
from ostler_control.vms.locate import MigrateInputs
from ostler_control.vms.migrate import finish, record_where_it_is

# With one host back the other may still be needed; asking in vain takes minutes and writes events.
_PAUSE = datetime.timedelta(minutes=5)


@periodic
def resolve_stranded(_: Keyring) -> None:
    """Starts a `vm.resolve` for every VM that is `migrating`, held by no operation, and has a host that answers, or two
    that are proved off."""
    with session():
        ready = [
            vm for vm in Vm.select().where((Vm.state == VmState.MIGRATING) & (Vm.operation_id == "")) if _ready(vm)
        ]
    for vm in ready:
        with contextlib.suppress(AbortedError):  # somebody else was faster
            with transaction():
                operation = record_operation("vm.resolve", vm, SYSTEM, _inputs(vm))
            launch(operation)


def _ready(vm: Vm) -> bool:
    hosts = [host for host in (vm.host, vm.destination) if host is not None]
    # A host that was proved off and has returned is given back only once this is resolved.
    answering = [is_up(host) or has_returned(host) for host in hosts]
    if all(answers or is_proved_off(host, vm.id) for host, answers in zip(hosts, answering, strict=True)):
        # Which copy of a disk is whole, only one of the hosts can tell.
        return any(answering) or not _inputs(vm).moved
    tried = Operation.select().where((Operation.resource_id == vm.id) & (Operation.end_time > now() - _PAUSE))
    return any(answering) and not tried.exists()


def _inputs(vm: Vm) -> MigrateInputs:
    """The inputs of the migration that broke off."""
    query = Operation.select().where((Operation.resource_id == vm.id) & (Operation.verb == "vm.migrate"))
    migration = query.order_by(Operation.create_time.desc()).get()
    return replace(read_inputs(MigrateInputs, migration), migration_id=migration.id)


@workflow("vm.resolve")
def _resolve(run: Run) -> None:
    if record_where_it_is(run):
        finish(run)
