"""Templates of a volume or a snapshot: an export, fetched into the templates' directory.

A template of an encrypted source stays encrypted: under a passphrase that the caller chooses, which is sealed first of
all and destroyed with the template.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

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
from ostler_control.volumes.exports import ExportInputs
from ostler_control.volumes.sources import SourceRow, lock_source

_FORMAT = "qcow2"
_CHECK_INTERVAL_S = 1.0
# Percent of the work: when the copy is done, when the fetching is done.
_COPIED, _FETCHED = 60, 98


@dataclass(frozen=True)
class NewTemplateFromVolume:
    """A requested template. tpm: whether its VMs get a TPM."""

    name: str
    firmware: str
    source: SourceRow
    encryption: ExportEncryption
    tpm: bool = False


@dataclass(frozen=True)
class TemplateInputs(ExportInputs):
    """name, firmware, tpm: the template's."""

    name: str
    firmware: str
    tpm: bool = False  # journals of earlier versions do not say


def create(wanted: NewTemplateFromVolume, user: str, keys: Keyring) -> Operation:
    """Records the operation that creates a template; its row is inserted once its file is there.

    Raises InvalidArgumentError; AlreadyExistsError TEMPLATE_EXISTS; FailedPreconditionError VM_RUNNING, and what
    `matrix.check`, `export_encryption.check` and `sources.lock_source` raise.
    """
    template_store.check_free_name(check_name("name", wanted.name))
    encryption = wanted.encryption
    export_encryption.check(encryption, wanted.source)
    source = lock_source(wanted.source, encryption.passphrase is not None)
    matrix.check(matrix.Operation.TEMPLATE, source.row, source.host is not None)
    operation_id = new_id()
    export_encryption.record(encryption, source, user, f"template {wanted.name}", operation_id)
    passphrase = keys.store(encryption.passphrase, source.volume_id) if encryption.passphrase else None
    export = exports.record(source, encryption, _FORMAT, operation_id, passphrase)
    inputs = TemplateInputs(**asdict(export), name=wanted.name, firmware=wanted.firmware, tpm=wanted.tpm)
    template = Template(id=new_id(), name=wanted.name)  # the last step inserts it
    return record_operation(
        "template.create", template, user, inputs, also=[*source.also, source.row], operation_id=operation_id
    )


@workflow("template.create")
def _create(run: Run) -> None:
    inputs = run.read(TemplateInputs)
    with run.undoing() as undo:
        host_id: str = run.step("choose", lambda: exports.choose(run))
        undo.push("discard", lambda: exports.discard(run))
        run.step("copy", lambda: _copy(run, host_id, inputs))
        run.step("release-source", lambda: exports.release_source(run))
        undo.push("delete-file", lambda: template_store.discard(run.resource_id, run.templates))
        file: Json = run.step("fetch", lambda: _fetch(run, host_id, inputs))
        run.step("record", lambda: _record(run, Received(**file), inputs))
        undo.clear()
        run.always("discard", lambda: exports.discard(run))


def _copy(run: Run, host_id: str, inputs: TemplateInputs) -> None:
    file = files.load(inputs.file_id)
    exports.copy(run, host_id, run.keys.open(file) if file.passphrase_id else None, (0, _COPIED))


def _fetch(run: Run, host_id: str, inputs: TemplateInputs) -> Json:
    export = files.load(inputs.file_id)
    chunks = streams.read(run.agents, address_of(host_id), wire.plain_ref(export), _at_intervals(run.check))
    first = next(chunks, None)
    if first is None:
        raise InternalError("a host sent nothing of an export", "SIZE_MISMATCH")
    total, done = first[0], 0

    def data() -> Iterator[bytes]:
        nonlocal done
        for _, chunk in itertools.chain([first], chunks):
            done += len(chunk)
            run.phase("fetching template", _COPIED + (_FETCHED - _COPIED) * done // total)
            yield chunk

    announced = Announced(_FORMAT, total, encrypted=export.passphrase_id is not None)
    return asdict(template_store.store(run.resource_id, announced, data(), run.templates))


def _record(run: Run, file: Received, inputs: TemplateInputs) -> None:
    with transaction():
        if Template.get_or_none(Template.id == run.resource_id) is not None:
            return
        export = files.load(inputs.file_id)
        passphrase = run.keys.store(run.keys.open(export), run.resource_id) if export.passphrase_id else None
        announced = Announced(_FORMAT, file.file_size_bytes)
        wanted = template_store.NewTemplate(inputs.name, inputs.firmware, announced, tpm=inputs.tpm)
        template_store.insert(run.resource_id, wanted, file, passphrase)


def _at_intervals(check: Callable[[], None]) -> Callable[[], None]:
    """Calls a check that costs a query at most once a second."""
    last = time.monotonic()

    def limited() -> None:
        nonlocal last
        if time.monotonic() - last >= _CHECK_INTERVAL_S:
            last = time.monotonic()
            check()

    return limited
