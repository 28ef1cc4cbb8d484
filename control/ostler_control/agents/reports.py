"""Checks what hosts report before it is recorded: a host may be broken or taken over. Pure.

A report with a wrong number is dropped, so that the last good one counts; the host's state says why. Texts are only
shortened: a probe's reason may quote a program at length.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from ostler.agent.v1 import pool_pb2
from ostler.types.v1 import vm_pb2
from ostler_common.text import printable, shortened

# Characters of a string, and elements of a repeated field.
MAX_TEXT = 1024
MAX_ELEMENTS = 1000
MAX_VMS = 10_000
# By field name: more than any host has. Bytes, CPUs, percent.
MAX_NUMBER: Mapping[str, float] = {
    "available_bytes": 2.0**60,
    "capacity_bytes": 2.0**60,
    "cpu_pressure": 100,
    "cpu_used": 65_536,
    "cpus": 65_536,
    "dirty_rate_bytes_per_s": 2.0**50,
    "io_pressure": 100,
    "memory_bytes": 2.0**50,
    "memory_guest_used_bytes": 2.0**50,
    "memory_pressure": 100,
    "memory_rss_bytes": 2.0**50,
    "memory_total_bytes": 2.0**50,
    "memory_used_bytes": 2.0**50,
    "seconds": 253_402_300_799,  # of a Timestamp: the end of the year 9999
    "nanos": 999_999_999,
}
_BEGIN = "reports what cannot be"
_MAX_OTHER = 2.0**62
_NUMBERS = {
    FieldDescriptor.TYPE_DOUBLE,
    FieldDescriptor.TYPE_INT32,
    FieldDescriptor.TYPE_INT64,
    FieldDescriptor.TYPE_UINT64,
}


def complaint(wrong: str) -> str:
    """What a host's state says about a wrong value."""
    return f"{_BEGIN}: {wrong}; that report is ignored (look at the host and its agent)"


def is_complaint(text: str) -> bool:
    """Whether a host's state is about a wrong value."""
    return text.startswith(_BEGIN)


def find_wrong(report: Message) -> str:
    """The first wrong value of a report, as in "cpus is -4"; "" when there is none.

    Numbers are finite, not negative and possible; lists are short.
    """
    return _find_wrong(report)


def find_wrong_load(load: vm_pb2.HostLoad) -> str:
    """The same for a host's load, which comes every few seconds: no memory beyond what there is, no VM twice."""
    wrong = find_wrong(load)
    if wrong:
        return wrong
    if 0 < load.memory_total_bytes < load.memory_used_bytes:
        return f"memory_used_bytes is {load.memory_used_bytes}, of {load.memory_total_bytes} in all"
    if len({vm.vm_id for vm in load.vms}) < len(load.vms):
        return "vms has one VM twice"
    return ""


def find_wrong_pool(pool: pool_pb2.Pool) -> str:
    """The same for a pool's measure: no more is available than there is."""
    wrong = find_wrong(pool)
    if not wrong and pool.available_bytes > pool.capacity_bytes:
        return f"available_bytes is {pool.available_bytes}, of {pool.capacity_bytes} in all"
    return wrong


def good_vms(vms: Iterable[vm_pb2.VmInfo]) -> tuple[list[vm_pb2.VmInfo], str]:
    """The VMs of a report, and its first wrong value.

    Of a VM with a wrong value only its id and power state count: to leave it out would say that it is not there.
    """
    good: list[vm_pb2.VmInfo] = []
    first = ""
    for vm in vms:
        wrong = find_wrong(vm)
        if len(good) < MAX_VMS:
            kept = (
                vm_pb2.VmInfo(vm_id=vm.vm_id, power_state=vm.power_state, managed=vm.managed, migrating=vm.migrating)
                if wrong
                else vm
            )
            good.append(kept)
        first = first or (wrong and f"of VM {shortened(vm.vm_id, 40)}, {wrong}")
        if len(good) == MAX_VMS and not first:
            first = f"vms has {MAX_VMS} elements or more"
    return good, first


def clean(report: Message) -> None:
    """Shortens the texts of a report, and escapes what is not printable in them."""
    for field, value in report.ListFields():
        if field.message_type is not None:
            if field.message_type.GetOptions().map_entry:
                continue
            for inner in value if field.is_repeated else [value]:
                clean(inner)
        elif field.type == FieldDescriptor.TYPE_STRING:
            if field.is_repeated:
                value[:] = [clean_text(text) for text in value]
            else:
                setattr(report, field.name, clean_text(value))


def clean_text(text: str) -> str:
    return printable(shortened(text, MAX_TEXT))


@dataclass(frozen=True)
class _Check:
    """What is asked of a field. most: of a number; max_elements: of a repeated field; inner: its value is a message, or
    each of its elements is."""

    name: str
    most: float
    max_elements: int
    inner: bool


@functools.cache  # loads come a few hundred times a second, and descriptors answer slowly
def _checks(kind: Descriptor) -> Mapping[int, _Check]:
    """By number the fields in which something can be wrong."""
    found: dict[int, _Check] = {}
    for field in kind.fields:
        message = field.message_type
        inner = message is not None and not message.GetOptions().map_entry
        if field.is_repeated:
            found[field.number] = _Check(field.name, 0, MAX_VMS if field.name == "vms" else MAX_ELEMENTS, inner)
        elif inner or field.type in _NUMBERS:
            found[field.number] = _Check(field.name, MAX_NUMBER.get(field.name, _MAX_OTHER), 0, inner)
    return found


def _find_wrong(message: Message) -> str:
    checks = _checks(message.DESCRIPTOR)
    for field, value in message.ListFields():
        check = checks.get(field.number)
        if check is None:
            continue
        if check.max_elements:
            if len(value) > check.max_elements:
                return f"{check.name} has {len(value)} elements"
            for index, item in enumerate(value if check.inner else ()):
                if wrong := _find_wrong(item):
                    return f"{check.name}[{index}].{wrong}"
        elif check.inner:
            if wrong := _find_wrong(value):
                return f"{check.name}.{wrong}"
        elif not 0 <= value <= check.most:  # nor are NaN and infinity
            return f"{check.name} is {value}"
    return ""
