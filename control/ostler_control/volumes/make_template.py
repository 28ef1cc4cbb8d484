"""Templates made of a volume or a snapshot: an export, fetched into the templates' directory.

An encrypted one stays encrypted: under a passphrase of the caller's, which is sealed before anything else is done and
destroyed with the template.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from ostler_common.errors import InternalError

from ostler_control.catalog.names import check_name
from ostler_control.database import transaction
from ostler_control.hosts.rows import address_of
from ostler_control.keys import Keyring
from ostler_control.models import Operation, Template, new_id
from ostler_control.operations import Json, Run, record_operation, workflow
from ostler_control.templates import store as template_store
from ostler_control.templates.received import Announced, Received
from ostler_control.volumes import export_encryption, exports, files, matrix, streams, wire
from ostler_control.volumes.export_encryption import ExportEncryption
from ostler_control.volumes.sources import lock_source

_FORMAT = "qcow2"
_CHECK_INTERVAL_S = 1.0
# Shares of the work, percent: the copy is done, the fetching is done.
_COPIED, _FETCHED = 60, 98


@dataclass(frozen=True)
class NewTemplateFromVolume:
    """A template that is wanted. source: a Volume or a Snapshot."""

    name: str
    firmware: str
    source: Any
    encryption: ExportEncryption


def create(wanted: NewTemplateFromVolume, user: str, keys: Keyring) -> Operation:
    """Records the operation that makes a template; its row is made once its file is there.

    Raises InvalidArgumentError; AlreadyExistsError TEMPLATE_EXISTS; FailedPreconditionError VM_RUNNING, and what
    `matrix.check`, `export_encryption.check` and `sources.take_source` raise.
    """
    template_store.check_free_name(check_name("name", wanted.name))
    how = wanted.encryption
    export_encryption.check(how, wanted.source)
    source = lock_source(wanted.source, how.passphrase is not None)
    matrix.check(matrix.Operation.TEMPLATE, source.row, source.host is not None)
    operation_id = new_id()
    export_encryption.record(how, source, user, f"template {wanted.name}", operation_id)
    passphrase = keys.store(how.passphrase, source.volume_id) if how.passphrase else None
    file = exports.record(source, how, _FORMAT, operation_id, passphrase)
    inputs = {**exports.inputs(source, file), "name": wanted.name, "firmware": wanted.firmware}
    coming: Any = Template(id=new_id(), name=wanted.name)  # to be saved by the last step
    return record_operation(
        "template.create", coming, user, inputs, also=[*source.also, source.row], operation_id=operation_id
    )


@workflow("template.create")
def _create(run: Run) -> None:
    with run.undoing() as undo:
        host_id: str = run.step("choose", lambda: exports.choose(run))
        undo.push("discard", lambda: exports.discard(run))
        run.step("copy", lambda: _copy(run, host_id))
        run.step("let-go", lambda: exports.release_source(run))
        undo.push("drop", lambda: template_store.discard(run.resource_id, run.templates))
        file: Json = run.step("fetch", lambda: _fetch(run, host_id))
        run.step("record", lambda: _record(run, Received(**file)))
        undo.clear()
        run.always("discard", lambda: exports.discard(run))


def _copy(run: Run, host_id: str) -> None:
    file = files.load(run.inputs["file_id"])
    exports.copy(run, host_id, run.keys.open(file) if file.passphrase_id else None, (0, _COPIED))


def _fetch(run: Run, host_id: str) -> Json:
    export = files.load(run.inputs["file_id"])
    pieces = streams.read(run.agents, address_of(host_id), wire.plain_ref(export), _now_and_then(run.check))
    first = next(pieces, None)
    if first is None:
        raise InternalError("a host sent nothing of an export", "SIZE_MISMATCH")
    total, done = first[0], 0

    def data() -> Any:
        nonlocal done
        for _, piece in itertools.chain([first], pieces):
            done += len(piece)
            run.phase("fetching template", _COPIED + (_FETCHED - _COPIED) * done // total)
            yield piece

    announced = Announced(_FORMAT, total, encrypted=export.passphrase_id is not None)
    return asdict(template_store.store(run.resource_id, announced, data(), run.templates))


def _record(run: Run, file: Received) -> None:
    with transaction():
        if Template.get_or_none(Template.id == run.resource_id) is not None:
            return
        export = files.load(run.inputs["file_id"])
        passphrase = None
        if export.passphrase_id:
            passphrase = run.keys.store(run.keys.open(export), run.resource_id)
        announced = Announced(_FORMAT, file.file_size_bytes)
        wanted = template_store.NewTemplate(run.inputs["name"], run.inputs["firmware"], announced)
        template_store.insert(run.resource_id, wanted, file, passphrase)


def _now_and_then(check: Callable[[], None]) -> Callable[[], None]:
    """A check that costs a query, at most once a second."""
    last = time.monotonic()

    def seldom() -> None:
        nonlocal last
        if time.monotonic() - last >= _CHECK_INTERVAL_S:
            last = time.monotonic()
            check()

    return seldom
