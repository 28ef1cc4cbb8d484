"""Deleting what imports left behind because their source or a host did not answer: clones, staged files, and copies of
running VMs that KVM hosts hold open."""

from __future__ import annotations

import contextlib
import datetime
from dataclasses import dataclass

from ostler.agent.v1 import conversion_pb2 as pb
from ostler_common.errors import FailedPreconditionError, OstlerError

from ostler_control.database import session, transaction
from ostler_control.events import SYSTEM
from ostler_control.hosts.rows import address, has_hosts, is_up, reaching
from ostler_control.imports import kvm_source, sources, warm_source
from ostler_control.imports.rows import delete_imports
from ostler_control.keys import Keyring
from ostler_control.models import ImportSource, Operation, Pool, VmImport, now
from ostler_control.operations import Run, launch, periodic, record_operation, workflow
from ostler_control.states import UNFINISHED_OPERATIONS
from ostler_control.vmware.clone import delete_clones

_VERB = "vm-import.sweep"
_RETRY_PAUSE = datetime.timedelta(minutes=1)
_CALL_S = 60.0


@dataclass(frozen=True)
class SweepInputs:
    """import_id: the operation's that left something; it names the clone and the staging directory."""

    import_id: str


@periodic
def sweep(_: Keyring) -> None:
    """Starts a sweep for every import that is over and still has its row, unless one has just failed."""
    with session():
        unfinished = Operation.select(Operation.id).where(Operation.state.in_(UNFINISHED_OPERATIONS))
        left = list(VmImport.select().where(VmImport.id.not_in(unfinished)))
    for row in left:
        with contextlib.suppress(OstlerError):
            _start(row)


def _start(row: VmImport) -> None:
    with transaction():
        mine = (Operation.verb == _VERB) & (Operation.resource_id == row.id)
        busy = Operation.state.in_(UNFINISHED_OPERATIONS) | (Operation.end_time > now() - _RETRY_PAUSE)
        if Operation.select().where(mine & busy).exists():
            return
        operation = record_operation(_VERB, row, SYSTEM, SweepInputs(row.id))
    launch(operation)


@workflow(_VERB)
def _sweep(run: Run) -> None:
    import_id = run.read(SweepInputs).import_id
    run.step("delete-clone", lambda: _delete_clone(run, import_id))
    run.step("delete-staging", lambda: _delete_staging(run, import_id))


def _delete_clone(run: Run, import_id: str) -> None:
    with session():
        row = VmImport.get_or_none(VmImport.id == import_id)
        source = ImportSource.get_by_id(row.source_id) if row is not None and row.source_id else None
    if row is None or source is None:
        return
    if source.type == kvm_source.TYPE:
        kvm_source.end_copy(source, run.keys, run.agents, row.source_ref, import_id, row.host_id)
        return
    with sources.connect(source, run.keys) as connection:
        delete_clones(connection, row.source_ref, import_id, run.check)
        warm_source.restore(connection, import_id, run.check)


def _delete_staging(run: Run, import_id: str) -> None:
    """By whichever host reaches the pool; without any the files are out of reach for ever."""
    with session():
        row = VmImport.get_or_none(VmImport.id == import_id)
        if row is None:
            return
        stages = row.claimed_bytes > 0
        host = next((host for host in reaching(row.pool_id) if is_up(host)), None) if stages else None
        if host is None and stages and has_hosts(row.pool_id):
            pool = Pool.get_by_id(row.pool_id)
            raise FailedPreconditionError(f"no host that reaches pool {pool.name} is up", "NO_CAPABLE_HOST")
    if host is not None:
        request = pb.DeleteStagingRequest(staging=pb.StagingRef(pool_id=row.pool_id, staging_id=import_id))
        run.agents.call(address(host), lambda agent: agent.conversion.DeleteStaging, request, _CALL_S)
    with transaction():
        delete_imports(VmImport.id == import_id)
