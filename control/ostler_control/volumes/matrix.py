"""What may be done to volumes: one table, which every request asks before it changes anything.

`make matrix` writes docs/volume-operations.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from ostler_common.errors import FailedPreconditionError

if TYPE_CHECKING:
    from ostler_control.models import Snapshot, Volume


class Operation(StrEnum):
    """Whatever reads, writes, moves or uses a volume; the value is its name in the documentation."""

    CREATE = "create"
    CREATE_FROM_TEMPLATE = "create-from-template"
    ATTACH = "attach"
    DETACH = "detach"
    GROW = "grow"
    DELETE = "delete"
    SNAPSHOT = "snapshot"
    REVERT = "revert"
    BACKUP = "backup"
    FROM_SNAPSHOT = "volume-from-snapshot"
    COPY = "copy"
    DOWNLOAD = "download"
    UPLOAD = "upload"
    TEMPLATE = "template"
    LIMIT = "limit"
    REKEY = "rekey"
    REKEY_DEEP = "rekey-deep"
    ENCRYPT = "encrypt"
    MIGRATE = "migrate"
    CHANGE_OFFERING = "change-offering"
    REINSTALL = "reinstall"
    START_VM = "start-vm"
    MIGRATE_VM = "migrate-vm"
    MIGRATE_VM_WITH_STORAGE = "migrate-vm-with-storage"

    @property
    def command(self) -> str:
        """The command of `ostler` that requests it."""
        return _COMMANDS[self]


_COMMANDS = {
    Operation.CREATE: "volume create",
    Operation.CREATE_FROM_TEMPLATE: "vm create",
    Operation.ATTACH: "volume attach",
    Operation.DETACH: "volume detach",
    Operation.GROW: "volume grow",
    Operation.DELETE: "volume delete",
    Operation.SNAPSHOT: "snapshot create",
    Operation.REVERT: "snapshot revert",
    Operation.BACKUP: "backup create",
    Operation.FROM_SNAPSHOT: "volume create --snapshot",
    Operation.COPY: "volume copy",
    Operation.DOWNLOAD: "volume download",
    Operation.UPLOAD: "volume upload",
    Operation.TEMPLATE: "template create",
    Operation.LIMIT: "volume limit",
    Operation.REKEY: "volume rekey",
    Operation.REKEY_DEEP: "volume rekey --deep",
    Operation.ENCRYPT: "volume encrypt",
    Operation.MIGRATE: "volume migrate",
    Operation.CHANGE_OFFERING: "volume change-offering",
    Operation.REINSTALL: "vm reinstall",
    Operation.START_VM: "vm start",
    Operation.MIGRATE_VM: "vm migrate",
    Operation.MIGRATE_VM_WITH_STORAGE: "vm migrate --with-storage",
}

POOL_TYPES = ("local", "shared-mount-point", "nfs", "powerflex")


@dataclass(frozen=True)
class Allowed:
    """It works."""


@dataclass(frozen=True)
class Refused:
    """It is refused before anything changes. explanation: why, and what to do instead, to follow the volume's name."""

    reason: str
    explanation: str


Verdict = Allowed | Refused


@dataclass(frozen=True)
class _Rule:
    """A refusal, and where it applies (None: everywhere, also on pool types that this table does not list)."""

    operations: frozenset[Operation]
    refusal: Refused
    encrypted: bool | None = None
    running: bool | None = None
    pool_types: frozenset[str] | None = None

    def applies(self, operation: Operation, encrypted: bool, running: bool, pool_type: str) -> bool:
        return (
            operation in self.operations
            and self.encrypted in (None, encrypted)
            and self.running in (None, running)
            and (self.pool_types is None or pool_type in self.pool_types)
        )


# The first rule that applies is the answer; where none does, the operation works.
_RULES = (
    _Rule(
        frozenset({Operation.REKEY, Operation.REKEY_DEEP}),
        Refused("NOT_ENCRYPTED", "is not encrypted and has no key; encrypt it first (ostler volume encrypt)"),
        encrypted=False,
    ),
    _Rule(
        frozenset({Operation.ENCRYPT}),
        Refused("ALREADY_ENCRYPTED", "is already encrypted; to change the key: ostler volume rekey"),
        encrypted=True,
    ),
    _Rule(
        frozenset({Operation.REKEY}),
        Refused(
            "VOLUME_IN_USE",
            "is in use by a running VM, whose host keeps its header open; stop the VM, or use ostler volume rekey "
            "--deep, which works while it runs",
        ),
        running=True,
    ),
    _Rule(
        frozenset({Operation.REVERT, Operation.REINSTALL}),
        Refused(
            "VM_RUNNING", "is in use by a running VM, and its content cannot be replaced meanwhile; stop the VM first"
        ),
        running=True,
    ),
    _Rule(
        frozenset({Operation.TEMPLATE}),
        Refused(
            "VM_RUNNING",
            "is in use by a running VM, and a template of it would boot as after a power cut; stop the VM, or create "
            "the template from a snapshot",
        ),
        running=True,
    ),
    _Rule(
        frozenset({Operation.DELETE}),
        Refused("ATTACHED", "belongs to a running VM; detach it first, or delete the VM if it is its root disk"),
        running=True,
    ),
    _Rule(
        frozenset({Operation.START_VM}),
        Refused("VM_STATE", "is in use by a VM that already runs"),
        running=True,
    ),
    _Rule(
        frozenset({Operation.MIGRATE_VM, Operation.MIGRATE_VM_WITH_STORAGE}),
        Refused(
            "VM_STATE",
            "belongs to a stopped VM; only a running VM migrates, a stopped one can start on any host that fits",
        ),
        running=False,
    ),
    _Rule(
        frozenset({Operation.MIGRATE_VM}),
        Refused(
            "LOCAL_STORAGE",
            "is on storage that only its VM's host reaches; migrate its storage too (ostler vm migrate --with-storage)",
        ),
        running=True,
        pool_types=frozenset({"local"}),
    ),
)


def verdict(operation: Operation, encrypted: bool, running: bool, pool_type: str) -> Verdict:
    """Whether an operation works. running: the VM that the volume is attached to, or will be attached to, runs."""
    for rule in _RULES:
        if rule.applies(operation, encrypted, running, pool_type):
            return rule.refusal
    return Allowed()


def check(operation: Operation, volume: Volume | Snapshot, vm_running: bool, pool_type: str = "") -> None:
    """Raises FailedPreconditionError with the table's reason when the operation does not work on this volume.

    volume: its row, or that of the snapshot that is used; pool_type: that of a second pool that is written to.
    """
    for kind in {volume.pool.type, pool_type or volume.pool.type}:
        check_in(kind, operation, volume, vm_running)


def check_in(kind: str, operation: Operation, volume: Volume | Snapshot, vm_running: bool) -> None:
    """The same for a volume in a pool of this type."""
    found = verdict(operation, bool(volume.passphrase_id), vm_running, kind)
    if isinstance(found, Refused):
        raise FailedPreconditionError(
            f"volume {volume.name} {found.explanation}",
            found.reason,
            {"volume": volume.id, "operation": operation.value, "pool_type": kind},
        )


def check_all(operation: Operation, volumes: Iterable[Volume], vm_running: bool) -> None:
    """`check` for every disk of a VM."""
    for volume in volumes:
        check(operation, volume, vm_running)


def cells() -> Iterator[tuple[Operation, bool, bool, str, Verdict]]:
    """Every cell: operation, encrypted, running, pool type, verdict."""
    for operation in Operation:
        for encrypted in (False, True):
            for running in (False, True):
                for pool_type in POOL_TYPES:
                    yield operation, encrypted, running, pool_type, verdict(operation, encrypted, running, pool_type)


_HEAD = """\
# What works on which volume

This page is generated from the table that the control plane checks before every operation (`make matrix` writes the
page, and a test compares the two).

- "yes": the operation works.
- A reason in capitals: the operation is refused with that reason before anything changes.
- *stopped*: the VM is stopped, or the volume is not attached.
- *running*: a running VM uses the volume, or will use it.

As for any operation, hosts must be up, must reach the pools, and must have passed the probe of volume encryption if the
volume is encrypted. Pools must have room, and no other operation may hold the volume.
"""


def document() -> str:
    """docs/volume-operations.md."""
    parts = [_HEAD]
    used: dict[str, set[str]] = {}
    columns = [(encrypted, running) for encrypted in (False, True) for running in (False, True)]
    for types, kinds in _alike():
        parts.append(f"\n## Pools of type {types}\n")
        parts.append(
            "| operation | command | plain, stopped | plain, running | encrypted, stopped | encrypted, running |"
        )
        parts.append("| --- | --- | --- | --- | --- | --- |")
        for operation in Operation:
            row = [verdict(operation, encrypted, running, kinds[0]) for encrypted, running in columns]
            for found in row:
                if isinstance(found, Refused):
                    used.setdefault(found.reason, set()).add(f"the volume {found.explanation}")
            words = [found.reason if isinstance(found, Refused) else "yes" for found in row]
            parts.append(f"| {operation.value} | `ostler {operation.command}` | {' | '.join(words)} |")
    parts.append("\n## Reasons\n")
    parts += [f"- `{reason}`: {'; or '.join(sorted(used[reason]))}." for reason in sorted(used)]
    return "\n".join(parts) + "\n"


def _alike() -> list[tuple[str, list[str]]]:
    """Pool types grouped by equal verdicts, each group with its name."""
    groups: dict[tuple[Verdict, ...], list[str]] = {}
    for pool_type in POOL_TYPES:
        column = tuple(found for *_, kind, found in cells() if kind == pool_type)
        groups.setdefault(column, []).append(pool_type)
    return [(", ".join(f"`{kind}`" for kind in kinds), kinds) for kinds in groups.values()]
