"""The messages between the agent and a driver program, as values: one JSON object per line.

Agent to program: {"id": 7, "call": "start", "args": {...}}. Program to agent: {"id": 7, "result": ...} or
{"id": 7, "error": {"reason": "DISK_IN_USE", "message": "..."}}. What a program sends is untrusted: everything is
checked here, and a violation raises ProtocolError.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from ostler_common.driver_details import MAX_LENGTH, MAX_NUMBER, DetailField, DetailKind, check_schema
from ostler_common.errors import (
    AbortedError,
    AlreadyExistsError,
    DeadlineExceededError,
    FailedPreconditionError,
    InternalError,
    NotFoundError,
    OstlerError,
    ResourceExhaustedError,
    UnavailableError,
)
from ostler_common.hypervisors import Function

from ostler_agent.hypervisors.base import Paths, VmSample
from ostler_agent.hypervisors.info import DriverInfo
from ostler_agent.spec import DiskFormat, DiskSpec, PowerState, VmInfo, VmSpec

PROTOCOL_VERSION = 1
MAX_LINE_BYTES = 4 << 20
MAX_TEXT = 4096
# Functions that a program can state: those with calls in this protocol, and those that `start` alone supports.
FUNCTIONS = frozenset(
    {
        Function.REBOOT,
        Function.HOT_PLUG,
        Function.ONLINE_GROW,
        Function.SCREENSHOT,
        Function.NICS,
        Function.UEFI,
        Function.DIRECT_DOWNLOAD,
    }
)
_STATES = {"running": PowerState.RUNNING, "stopped": PowerState.STOPPED, "paused": PowerState.PAUSED}
_REASON = re.compile(r"[A-Z][A-Z0-9_]{2,63}")
_ERRORS: Mapping[str, type[OstlerError]] = {
    "VM_NOT_FOUND": NotFoundError,
    "VOLUME_NOT_ATTACHED": NotFoundError,
    "VM_EXISTS": AlreadyExistsError,
    "DETACH_TIMEOUT": DeadlineExceededError,
    "POOL_FULL": ResourceExhaustedError,
    "HOST_MEMORY": ResourceExhaustedError,
    "DISK_BUSY": AbortedError,
    "UNAVAILABLE": UnavailableError,
    "INTERNAL": InternalError,
}


class ProtocolError(Exception):
    """A program violates the protocol; the message says how."""


@dataclass(frozen=True)
class Reply:
    """The reply to a call: its result, or its error."""

    id: int
    result: Any = None
    error: OstlerError | None = None


def request(number: int, call: str, args: Mapping[str, Any]) -> bytes:
    """One line for the program."""
    return json.dumps({"id": number, "call": call, "args": args}, separators=(",", ":")).encode() + b"\n"


def parse_reply(line: bytes) -> Reply:
    """Raises ProtocolError."""
    try:
        message = json.loads(line)
    except ValueError:
        raise ProtocolError(f"not a line of JSON: {_excerpt(line)}") from None
    if not isinstance(message, dict) or not isinstance(message.get("id"), int):
        raise ProtocolError(f"a reply must be an object with a number `id`: {_excerpt(line)}")
    if ("result" in message) == ("error" in message):
        raise ProtocolError(f"a reply must have either `result` or `error`: {_excerpt(line)}")
    if "error" in message:
        return Reply(message["id"], error=_error(message["error"]))
    return Reply(message["id"], message["result"])


def driver_info(hello: object) -> DriverInfo:
    """The statement in the result of `hello`. Raises ProtocolError."""
    fields = _object(hello, "the result of hello")
    version = fields.get("protocol_version")
    if version != PROTOCOL_VERSION:
        raise ProtocolError(f"it speaks version {version!r} of the protocol, and this agent version {PROTOCOL_VERSION}")
    functions = _texts(fields, "functions")
    if unknown := set(functions) - set(FUNCTIONS):
        raise ProtocolError(f"it states functions that a driver program cannot have: {', '.join(sorted(unknown))}")
    formats = _texts(fields, "template_formats")
    if not formats or set(formats) - set(DiskFormat):
        raise ProtocolError(f"template_formats must be among {', '.join(DiskFormat)}")
    return DriverInfo(
        interface_version=1,
        type=_text(fields, "type"),
        display_name=_text(fields, "display_name"),
        template_formats=frozenset(map(DiskFormat, formats)),
        functions=frozenset(map(Function, functions)),
        pool_types=frozenset(_texts(fields, "pool_types")),
        details=_details(fields),
    )


def _details(fields: Mapping[str, object]) -> tuple[DetailField, ...]:
    if "details" not in fields:
        return ()
    found = tuple(_detail(_object(item, "a detail")) for item in _list(fields["details"], "details"))
    try:
        check_schema(found)
    except ValueError as error:
        raise ProtocolError(f"details: {error}") from None
    return found


def _detail(fields: Mapping[str, object]) -> DetailField:
    kind = _text(fields, "kind") if "kind" in fields else DetailKind.TEXT.value
    if kind not in set(DetailKind):
        raise ProtocolError(f"the kind of a detail must be among {', '.join(DetailKind)}")
    return DetailField(
        key=_text(fields, "key"),
        summary=_text(fields, "summary"),
        kind=DetailKind(kind),
        required=_boolean(fields, "required"),
        per_vm=_boolean(fields, "per_vm"),
        values=tuple(_texts(fields, "values")) if "values" in fields else (),
        max_length=_number(fields, "max_length") if "max_length" in fields else MAX_LENGTH,
        minimum=_number(fields, "minimum") if "minimum" in fields else 0,
        maximum=_number(fields, "maximum") if "maximum" in fields else MAX_NUMBER,
    )


def vm_args(spec: VmSpec, paths: Paths) -> dict[str, Any]:
    """The arguments of `define` and `start`."""
    return {
        "vm_id": spec.vm_id,
        "name": spec.name,
        "cpus": spec.cpus,
        "memory_bytes": spec.memory_bytes,
        "firmware": spec.firmware.value,
        "disks": [disk_args(disk, str(paths(disk.volume))) for disk in spec.disks],
        "nics": [{"mac": nic.mac, "bridge": nic.bridge, "model": nic.model} for nic in spec.nics],
        "details": dict(spec.details),
    }


def disk_args(disk: DiskSpec, path: str) -> dict[str, Any]:
    """A disk in the arguments of a call."""
    return {
        "volume_id": disk.volume.volume_id,
        "path": path,
        "format": disk.volume.format.value,
        "slot": disk.slot,
        "boot": disk.boot,
        "serial": disk.serial or disk.volume.volume_id,
    }


def vm_infos(result: object) -> list[VmInfo]:
    """The VMs in the result of `list`. Raises ProtocolError."""
    found = [_vm_info(_object(item, "a VM")) for item in _list(result, "the result of list")]
    if len({info.vm_id for info in found}) != len(found):
        raise ProtocolError("the result of list contains a VM twice")
    return found


def vm_samples(result: object) -> list[VmSample]:
    """The counters in the result of `samples`. Raises ProtocolError."""
    samples = []
    for item in _list(result, "the result of samples"):
        fields = _object(item, "a sample")
        used = _number(fields, "guest_used_bytes") if "guest_used_bytes" in fields else 0
        samples.append(VmSample(_uuid(fields), _number(fields, "cpu_time_ns"), _number(fields, "rss_bytes"), used))
    return samples


def path_result(result: object) -> str:
    """The path in the result of `console`. Raises ProtocolError."""
    return _text(_object(result, "the result of console"), "socket")


def facts(result: object) -> tuple[str, str]:
    """Version and detail in the result of `probe`. Raises ProtocolError."""
    fields = _object(result, "the result of probe")
    return _text(fields, "version"), _text(fields, "detail") if "detail" in fields else ""


def _vm_info(fields: Mapping[str, Any]) -> VmInfo:
    state = _text(fields, "state")
    if state not in _STATES:
        raise ProtocolError(f"the state of a VM must be among {', '.join(_STATES)}, not {state!r}")
    return VmInfo(
        vm_id=_uuid(fields),
        name=_text(fields, "name"),
        power_state=_STATES[state],
        cpus=_number(fields, "cpus"),
        memory_bytes=_number(fields, "memory_bytes"),
        volume_ids=tuple(_texts(fields, "volume_ids")),
        managed=True,
    )


def _error(value: object) -> OstlerError:
    fields = _object(value, "an error")
    reason, message = _text(fields, "reason"), _text(fields, "message")
    if not _REASON.fullmatch(reason):
        raise ProtocolError(f"the reason of an error must be UPPER_SNAKE_CASE, not {reason!r}")
    return _ERRORS.get(reason, FailedPreconditionError)(message, reason)


def _object(value: object, what: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ProtocolError(f"{what} must be an object")
    return value


def _list(value: object, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise ProtocolError(f"{what} must be a list")
    return value


def _text(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str) or not value or len(value) > MAX_TEXT:
        raise ProtocolError(f"{name} must be a text of 1 to {MAX_TEXT} characters")
    return value


def _texts(fields: Mapping[str, Any], name: str) -> list[str]:
    return [_text({name: value}, name) for value in _list(fields.get(name), name)]


def _number(fields: Mapping[str, Any], name: str) -> int:
    value = fields.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ProtocolError(f"{name} must be a number, 0 or more")
    return value


def _boolean(fields: Mapping[str, object], name: str) -> bool:
    value = fields.get(name, False)
    if not isinstance(value, bool):
        raise ProtocolError(f"{name} must be true or false")
    return value


def _uuid(fields: Mapping[str, Any]) -> str:
    value = _text(fields, "vm_id")
    try:
        if str(UUID(value)) == value:
            return value
    except ValueError:
        pass
    raise ProtocolError(f"vm_id must be a UUID in lower case, not {value!r}")


def _excerpt(line: bytes) -> str:
    return repr(line[:200].decode(errors="replace"))
