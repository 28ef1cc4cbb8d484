"""Functions that hosts have proved, of those that have no column of their own."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection

from peewee import ModelSelect

from ostler_control.models import Host, HostFunction, tuples


def of_hosts(
    host_ids: ModelSelect[Host] | None = None, functions: Collection[str] | None = None
) -> dict[str, set[str]]:
    """By host the functions that it has proved. host_ids, functions: only of these, None for all."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    query = HostFunction.select(HostFunction.host, HostFunction.function)
    if host_ids is not None:
        query = query.where(HostFunction.host.in_(host_ids))
    if functions is not None:
        query = query.where(HostFunction.function.in_(list(functions)))
    for host_id, function in tuples(query, tuple[str, str]):
        found[host_id].add(function)
    return found


def has(host_id: str, function: str) -> bool:
    """Whether a host has proved a function."""
    query = HostFunction.select().where(HostFunction.host == host_id, HostFunction.function == function)
    return bool(query.exists())
