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
from ostler_control.operations import Json, Work, begin, workflow
from ostler_control.templates import store as template_store
from ostler_control.templates.received import Announced, Received
from ostler_control.volumes import exports, files, leaving, matrix, streams, wire
from ostler_control.volumes.leaving import Leaving
from ostler_control.volumes.sources import take_source

_FORMAT = "qcow2"
_CHECK_INTERVAL_S = 1.0
# Shares of the work, percent: the copy is done, the fetching is done.
_COPIED, _FETCHED = 60, 98


@dataclass(frozen=True)
class NewTemplateOf:
    """A template that is wanted. source: a Volume or a Snapshot."""

    name: str
    firmware: str
    source: Any
    leaving: Leaving


def create(wanted: NewTemplateOf, user: str, keys: Keyring) -> Operation:
    """Records the operation that makes a template; its row is made once its file is there.

    Raises InvalidArgumentError; AlreadyExistsError TEMPLATE_EXISTS; FailedPreconditionError VM_RUNNING, and what
    `matrix.check`, `leaving.check` and `sources.take_source` raise.
    """
    template_store.check_free_name(check_name("name", wanted.name))
    how = wanted.leaving
    leaving.check(how, wanted.source)
    source = take_source(wanted.source, how.passphrase is not None)
    matrix.check(matrix.Operation.TEMPLATE, source.row, source.host is not None)
    operation_id = new_id()
    leaving.record(how, source, user, f"template {wanted.name}", operation_id)
    passphrase = keys.keep(how.passphrase, source.volume_id) if how.passphrase else None
    file = exports.record(source, how, _FORMAT, operation_id, passphrase)
    inputs = {**exports.inputs(source, file), "name": wanted.name, "firmware": wanted.firmware}
    coming: Any = Template(id=new_id(), name=wanted.name)  # to be saved by the last step
    return begin("template.create", coming, user, inputs, also=[*source.also, source.row], operation_id=operation_id)


@workflow("template.create")
def _create(work: Work) -> None:
    with work.undoing() as undo:
        host_id: str = work.step("choose", lambda: exports.choose(work))
        undo.push("discard", lambda: exports.discard(work))
        work.step("copy", lambda: _copy(work, host_id))
        work.step("let-go", lambda: exports.let_go(work))
        undo.push("drop", lambda: template_store.discard(work.resource_id, work.templates))
        file: Json = work.step("fetch", lambda: _fetch(work, host_id))
        work.step("record", lambda: _record(work, Received(**file)))
        undo.clear()
        work.always("discard", lambda: exports.discard(work))


def _copy(work: Work, host_id: str) -> None:
    file = files.load(work.inputs["file_id"])
    exports.copy(work, host_id, work.keys.open(file) if file.passphrase_id else None, (0, _COPIED))


def _fetch(work: Work, host_id: str) -> Json:
    export = files.load(work.inputs["file_id"])
    pieces = streams.read(work.agents, address_of(host_id), wire.plain_ref(export), _now_and_then(work.check))
    first = next(pieces, None)
    if first is None:
        raise InternalError("a host sent nothing of an export", "SIZE_MISMATCH")
    total, done = first[0], 0

    def data() -> Any:
        nonlocal done
        for _, piece in itertools.chain([first], pieces):
            done += len(piece)
            work.phase("fetching template", _COPIED + (_FETCHED - _COPIED) * done // total)
            yield piece

    announced = Announced(_FORMAT, total, encrypted=export.passphrase_id is not None)
    return asdict(template_store.store(work.resource_id, announced, data(), work.templates))


def _record(work: Work, file: Received) -> None:
    with transaction():
        if Template.get_or_none(Template.id == work.resource_id) is not None:
            return
        export = files.load(work.inputs["file_id"])
        passphrase = None
        if export.passphrase_id:
            passphrase = work.keys.keep(work.keys.open(export), work.resource_id)
        announced = Announced(_FORMAT, file.file_size_bytes)
        wanted = template_store.NewTemplate(work.inputs["name"], work.inputs["firmware"], announced)
        template_store.insert(work.resource_id, wanted, file, passphrase)


def _now_and_then(check: Callable[[], None]) -> Callable[[], None]:
    """A check that costs a query, at most once a second."""
    last = time.monotonic()

    def seldom() -> None:
        nonlocal last
        if time.monotonic() - last >= _CHECK_INTERVAL_S:
            last = time.monotonic()
            check()

    return seldom
