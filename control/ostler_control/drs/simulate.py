"""A plan on a file: JSON in, JSON out, no control plane."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict
from typing import Any, TypeVar

from ostler_common.errors import InvalidArgumentError, NotFoundError, Violation

from ostler_control.drs.model import Group, GroupKind, Host, LeftOut, Mode, Plan, Snapshot, Vm
from ostler_control.drs.planner import plan
from ostler_control.drs.settings import Settings

T = TypeVar("T")
# Any: what each reader returns is the field's type.
Parse = Callable[[object], Any]
# Any: plain data, for JSON and for people.
Plain = dict[str, Any]
_MAX_NUMBER = 1 << 53  # the planner's arithmetic is exact up to here
_MAX_DIGITS = 40
_MAX_TEXT = 255


class _HugeNumber:
    """A number of so many digits that it is not even read."""


class _Repeated(dict[str, object]):
    """An object that has a key twice."""

    key = ""


def _name(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("must be a text that is not empty")
    return _text(value)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("must be a text")
    if len(value) > _MAX_TEXT:
        raise ValueError(f"has {len(value)} characters; at most {_MAX_TEXT} are allowed")
    if not value.isprintable():
        raise ValueError("holds a character that cannot be printed")
    return value


def _truth(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError("must be true or false")
    return value


def _size(value: object) -> int:
    if isinstance(value, _HugeNumber):
        raise ValueError(f"must be at most {_MAX_NUMBER}")
    if type(value) is float and value.is_integer():
        value = int(value)
    if type(value) is not int:
        raise ValueError("must be a whole number")
    if value < 0:
        raise ValueError(f"must not be negative ({value})")
    if value > _MAX_NUMBER:
        raise ValueError(f"must be at most {_MAX_NUMBER}")
    return value


def _maybe_size(value: object) -> int | None:
    return None if value is None else _size(value)


def _maybe_share(value: object) -> float | None:
    if value is None:
        return None
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= 1:
        raise ValueError("must be a number from 0 to 1")
    return float(value)


def _seconds(value: object) -> float | None:
    if value is None:
        return None
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= _MAX_NUMBER:
        raise ValueError(f"must be a number from 0 to {_MAX_NUMBER}")
    return float(value)


def _names(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
        raise ValueError("must be a list of texts")
    if len(set(value)) < len(value):
        raise ValueError("holds a name twice")
    return tuple(map(_text, value))


def _set(value: object) -> frozenset[str]:
    return frozenset(_names(value))


def _kind(value: object) -> GroupKind:
    try:
        return GroupKind(str(value))
    except ValueError:
        raise ValueError(f"must be {' or '.join(GroupKind)}") from None


# Key -> (attribute, how to read it).
_HOST: Mapping[str, tuple[str, Parse]] = {
    "name": ("name", _name),
    "cpu_mhz": ("cpu_mhz", _size),
    "memory_bytes": ("memory_bytes", _size),
    "reserved_cpu_mhz": ("reserved_cpu_mhz", _size),
    "reserved_memory_bytes": ("reserved_memory_bytes", _size),
    "other_cpu_mhz": ("other_cpu_mhz", _size),
    "other_memory_bytes": ("other_memory_bytes", _size),
    "state": ("state", _name),
    "enabled": ("enabled", _truth),
    "maintenance": ("maintenance", _truth),
    "encryption": ("encryption", _truth),
    "uefi": ("uefi", _truth),
    "hypervisor_type": ("hypervisor_type", _text),
    "cpu_models": ("cpu_models", _set),
    "bridges": ("bridges", _set),
    "nic_filter": ("nic_filter", _truth),
    "tpm": ("tpm", _truth),
    "secure_boot": ("secure_boot", _truth),
    "pools": ("pools", _set),
    "storage_free_bytes": ("storage_free_bytes", _size),
    "measured_cpu_mhz": ("measured_cpu_mhz", _maybe_size),
    "measured_memory_bytes": ("measured_memory_bytes", _maybe_size),
    "cpu_pressure": ("cpu_pressure", _maybe_share),
    "memory_pressure": ("memory_pressure", _maybe_share),
    "io_pressure": ("io_pressure", _maybe_share),
    "asleep": ("asleep", _truth),
    "live_migration": ("live_migration", _truth),
}
_VM: Mapping[str, tuple[str, Parse]] = {
    "name": ("name", _name),
    "host": ("host_id", _name),
    "cpu_mhz": ("cpu_mhz", _size),
    "memory_bytes": ("memory_bytes", _size),
    "encrypted": ("encrypted", _truth),
    "uefi": ("uefi", _truth),
    "hypervisor_type": ("hypervisor_type", _text),
    "cpu_model": ("cpu_model", _text),
    "bridges": ("bridges", _set),
    "nic_filter": ("nic_filter", _truth),
    "tpm": ("tpm", _truth),
    "secure_boot": ("secure_boot", _truth),
    "pools": ("pools", _set),
    "disk_bytes": ("disk_bytes", _size),
    "groups": ("groups", _names),
    "skip": ("skip", _truth),
    "running": ("movable", _truth),
    "dirty_rate_bytes_per_s": ("dirty_rate_bytes_per_s", _size),
    "moved_ago_s": ("moved_ago_s", _seconds),
    "recent_moves": ("recent_moves", _size),
    "measured_cpu_mhz": ("measured_cpu_mhz", _maybe_size),
    "measured_memory_bytes": ("measured_memory_bytes", _maybe_size),
    "protected": ("protected", _truth),
}
_GROUP: Mapping[str, tuple[str, Parse]] = {
    "name": ("name", _name),
    "kind": ("kind", _kind),
    "strict": ("strict", _truth),
    "hosts": ("hosts", _set),
}
_STATES = ("connecting", "up", "disconnected")


def read(text: str | bytes, changes: Mapping[str, str] | None = None) -> tuple[Snapshot, Settings]:
    """The cluster and settings of a file. changes: settings that replace the file's, as text.

    Raises InvalidArgumentError (INVALID_CLUSTER_FILE, INVALID_SETTING) that names the path of what is wrong, as in
    `vms[3].memory_bytes`.
    """
    root = _object(_load(text), "", ("hosts", "vms", "groups", "settings"), ("hosts",))
    hosts = _list(root, "hosts", Host, _HOST, ("name", "cpu_mhz", "memory_bytes"))
    vms = _list(root, "vms", Vm, _VM, ("name", "host", "cpu_mhz", "memory_bytes"))
    groups = _list(root, "groups", Group, _GROUP, ("name", "kind"))
    for position, host in enumerate(hosts):
        _check_host(host, f"hosts[{position}]")
    known_hosts, known_groups = {host.id for host in hosts}, {group.id for group in groups}
    for position, vm in enumerate(vms):
        if vm.host_id not in known_hosts:
            raise _bad(f"vms[{position}].host", f'there is no host "{vm.host_id}"')
        for index, group in enumerate(vm.groups):
            if group not in known_groups:
                raise _bad(f"vms[{position}].groups[{index}]", f'there is no group "{group}"')
    for position, rule in enumerate(groups):
        for name in sorted(rule.hosts - known_hosts):
            raise _bad(f"groups[{position}].hosts", f'there is no host "{name}"')
        if rule.kind.names_hosts != bool(rule.hosts):
            what = "must name hosts" if rule.kind.names_hosts else f"is not for kind {rule.kind.value}"
            raise _bad(f"groups[{position}].hosts", what)
    settings = root.get("settings", {})
    if not isinstance(settings, dict) or isinstance(settings, _Repeated):
        settings = _object(settings, "settings", (), ())
    in_file = Settings.of(settings)
    replaced = Settings.of(changes or {}, "--set ")
    values = {**in_file.as_dict(), **{name: replaced.as_dict()[name] for name in changes or {}}}
    return Snapshot(tuple(hosts), tuple(vms), tuple(groups)), Settings.of(values)


def _load(text: str | bytes) -> object:
    def pairs(found: list[tuple[str, object]]) -> dict[str, object]:
        keys = dict(found)
        if len(keys) < len(found):  # told where the path is known
            keys = _Repeated(keys)
            keys.key = Counter(key for key, _ in found).most_common(1)[0][0]
        return keys

    def constant(word: str) -> object:
        raise _bad("", f"{word} is no JSON")

    def whole(digits: str) -> object:
        return int(digits) if len(digits) <= _MAX_DIGITS else _HugeNumber()

    try:
        return json.loads(text, object_pairs_hook=pairs, parse_constant=constant, parse_int=whole)
    except json.JSONDecodeError as error:
        raise _bad("", f"is no JSON: {error.msg} (line {error.lineno}, column {error.colno})") from None
    except UnicodeDecodeError:
        raise _bad("", "is no UTF-8 text") from None
    except RecursionError:
        raise _bad("", "is nested too deeply") from None


def _object(value: object, path: str, known: Collection[str], required: Collection[str]) -> dict[str, object]:
    if not isinstance(value, dict):
        raise _bad(path, "must be an object")
    if isinstance(value, _Repeated):
        raise _bad(path, f'has the key "{value.key}" twice')
    for key in value:
        if key not in known:
            raise _bad(f"{path}.{key}" if path else key, f"unknown key (known are {', '.join(known)})")
    for key in required:
        if key not in value:
            raise _bad(f"{path}.{key}" if path else key, "is missing")
    return value


def _list(
    root: dict[str, object],
    key: str,
    make: Callable[..., T],
    fields: Mapping[str, tuple[str, Parse]],
    required: Collection[str],
) -> list[T]:
    items = root.get(key, [])
    if not isinstance(items, list):
        raise _bad(key, "must be a list")
    known = fields.keys()
    found: list[T] = []
    first_with: dict[str, int] = {}
    for position, item in enumerate(items):
        plain = type(item) is dict and known >= item.keys()
        if not plain or any(key not in item for key in required):
            _object(item, f"{key}[{position}]", fields, required)
        values: dict[str, object] = {}
        for name, value in item.items():
            attribute, parse = fields[name]
            try:
                values[attribute] = parse(value)
            except ValueError as error:
                raise _bad(f"{key}[{position}].{name}", str(error)) from None
        item_name = str(values["name"])
        if first_with.setdefault(item_name, position) != position:
            first = first_with[item_name]
            raise _bad(f"{key}[{position}].name", f'"{item_name}" is the name of {key}[{first}] already')
        found.append(make(id=item_name, **values))
    return found


def _check_host(host: Host, path: str) -> None:
    if host.state not in _STATES:
        raise _bad(f"{path}.state", f"must be {' or '.join(_STATES)}")
    if host.reserved_cpu_mhz > host.cpu_mhz:
        raise _bad(f"{path}.reserved_cpu_mhz", f"is more than cpu_mhz ({host.cpu_mhz})")
    if host.reserved_memory_bytes > host.memory_bytes:
        raise _bad(f"{path}.reserved_memory_bytes", f"is more than memory_bytes ({host.memory_bytes})")


def _bad(path: str, what: str) -> InvalidArgumentError:
    path, what = (text.encode("utf-8", "backslashreplace").decode() for text in (path[:_MAX_TEXT], what))
    message = f"{path}: {what}" if path else f"the file {what}"
    return InvalidArgumentError(message, "INVALID_CLUSTER_FILE", violations=[Violation(path, what)])


def simulate(
    text: str | bytes,
    changes: Mapping[str, str] | None = None,
    *,
    mode: Mode = Mode.BALANCE,
    leaving: Collection[str] = (),
) -> Plain:
    """Reads, plans, and answers with plain data; see docs/drs.md for its keys. Raises like `read` and `plan`."""
    snapshot, settings = read(text, changes)
    known = {host.id for host in snapshot.hosts}
    for name in leaving:
        if name not in known:
            raise NotFoundError(f'the file has no host "{name}"', "HOST_NOT_FOUND", {"name": name})
    begin = time.perf_counter()
    found = plan(snapshot, settings, mode, leaving=leaving)
    return {**as_plain(found), "settings": settings.as_dict(), "elapsed_s": round(time.perf_counter() - begin, 6)}


def as_plain(plan: Plan) -> Plain:
    """A plan as plain data, by names."""
    return {
        "mode": plan.mode.value,
        "algorithm": plan.algorithm,
        "verdict": plan.verdict.value,
        "explanation": plan.explanation,
        "imbalance_before": plan.imbalance_before,
        "imbalance_after": plan.imbalance_after,
        "migrations": [
            {
                "vm": move.vm_name,
                "from": move.source_name,
                "to": move.destination_name,
                "gain": move.gain,
                "cost": move.cost,
                "cost_bytes": move.cost_bytes,
                "storage_motion": move.storage_motion,
                "imbalance_before": move.imbalance_before,
                "imbalance_after": move.imbalance_after,
                "reason": move.reason,
                "considered": [
                    {"vm": other.vm_name, "to": other.destination_name, "gain": other.gain, "cost": other.cost}
                    for other in move.considered
                ],
                "needs": list(move.needs),
                "swap": move.swap,
            }
            for move in plan.moves
        ],
        "refused": {"vms": _count(plan.left_vms), "hosts": _count(plan.left_hosts), "moves": plan.refused},
        "left_out": {"vms": _left(plan.left_vms), "hosts": _left(plan.left_hosts)},
        "broken_rules": {
            "before": [asdict(rule) for rule in plan.broken_before],
            "after": [asdict(rule) for rule in plan.broken_after],
        },
        "hosts": [{key: value for key, value in asdict(load).items() if key != "id"} for load in plan.loads],
    }


def _count(left: Collection[LeftOut]) -> dict[str, int]:
    return dict(sorted(Counter(one.code for one in left).items()))


def _left(left: Collection[LeftOut]) -> list[dict[str, str]]:
    return [{"name": one.name, "code": one.code, "explanation": one.explanation} for one in left]
