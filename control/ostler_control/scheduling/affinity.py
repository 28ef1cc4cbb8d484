"""Affinity groups: their members, and the hosts that they allow a VM."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence

from ostler_common.errors import AlreadyExistsError, FailedPreconditionError, bad_field
from peewee import IntegrityError

from ostler_control import database, events
from ostler_control.catalog.names import check_name
from ostler_control.catalog.row_limits import check_rows
from ostler_control.models import (
    Account,
    AffinityGroup,
    AffinityHost,
    AffinityMember,
    Cluster,
    Host,
    HostState,
    Vm,
    tuples,
)
from ostler_control.placement import AffinityRules

AFFINITY, ANTI_AFFINITY = "affinity", "anti_affinity"
RUN_ON, NOT_RUN_ON = "run_on", "not_run_on"


def create(
    name: str, account: Account, kind: str, strict: bool, actor: str, hosts: Sequence[Host] = ()
) -> AffinityGroup:
    """A new group without VMs. hosts: of a group of kind RUN_ON or NOT_RUN_ON, at least one; of others none.

    Raises InvalidArgumentError, AlreadyExistsError (AFFINITY_GROUP_EXISTS), ResourceExhaustedError TOO_MANY_OBJECTS.
    """
    check_name("name", name)
    _check_hosts(kind, hosts)
    try:
        with database.transaction():
            check_rows(AffinityGroup, account.id)
            group: AffinityGroup = AffinityGroup.create(name=name, account=account, kind=kind, strict=strict)
            _insert_hosts(group, hosts)
            _record("affinity.create", group, actor, f"{'strict' if strict else 'preferred'} {_word(kind)}")
            return group
    except IntegrityError as error:
        raise AlreadyExistsError(
            f"account {account.name} has an affinity group {name} already", "AFFINITY_GROUP_EXISTS"
        ) from error


def set_hosts(group: AffinityGroup, hosts: Sequence[Host], actor: str) -> AffinityGroup:
    """Makes these the hosts that the group names. Nothing moves. Raises InvalidArgumentError HOSTS_NOT_ALLOWED."""
    _check_hosts(group.kind, hosts)
    with database.transaction():
        _lock([group.id])
        AffinityHost.delete().where(AffinityHost.group == group.id).execute()
        _insert_hosts(group, hosts)
        _record("affinity.update", group, actor, f"hosts: {', '.join(sorted(host.name for host in hosts))}")
    return AffinityGroup.get_by_id(group.id)


def _check_hosts(kind: str, hosts: Sequence[Host]) -> None:
    names_hosts = kind in (RUN_ON, NOT_RUN_ON)
    if names_hosts and not hosts:
        raise bad_field("hosts", f"a group of kind {_word(kind)} names at least one host", "HOSTS_NOT_ALLOWED")
    if hosts and not names_hosts:
        raise bad_field("hosts", f"a group of kind {_word(kind)} names no hosts", "HOSTS_NOT_ALLOWED")


def _insert_hosts(group: AffinityGroup, hosts: Sequence[Host]) -> None:
    for host_id in sorted({host.id for host in hosts}):
        AffinityHost.create(group=group.id, host=host_id)


def hosts_of(group_ids: Sequence[str]) -> dict[str, list[Host]]:
    """The hosts that these groups name, by name."""
    found: dict[str, list[Host]] = defaultdict(list)
    query = AffinityHost.select(AffinityHost.group, Host).join(Host)
    for row in query.where(AffinityHost.group.in_(group_ids)).order_by(Host.name, Host.id):
        found[row.group_id].append(row.host)
    return found


def delete(group: AffinityGroup, actor: str) -> None:
    """Deletes a group; its VMs stay where they are."""
    with database.transaction():
        AffinityGroup.delete().where(AffinityGroup.id == group.id).execute()
        _record("affinity.delete", group, actor, "")


def put(vm: Vm, groups: Sequence[AffinityGroup]) -> None:
    """Makes these the groups of the VM, within the caller's transaction. Nothing moves.

    Raises FailedPreconditionError (OTHER_ACCOUNT) for a group of another account.
    """
    for group in groups:
        if group.account_id != vm.account_id:
            raise FailedPreconditionError(
                f"affinity group {group.name} is not of VM {vm.name}'s account", "OTHER_ACCOUNT", {"group": group.id}
            )
    wanted = {group.id for group in groups}
    _lock(wanted)
    AffinityMember.delete().where((AffinityMember.vm == vm.id) & AffinityMember.group.not_in(list(wanted))).execute()
    for group_id in sorted(wanted):
        AffinityMember.insert(group=group_id, vm=vm.id).on_conflict_ignore().execute()


def groups_of(vm_ids: Sequence[str]) -> dict[str, list[AffinityGroup]]:
    """The groups of these VMs, by name."""
    if not vm_ids:
        return {}
    found: dict[str, list[AffinityGroup]] = defaultdict(list)
    query = AffinityMember.select(AffinityMember, AffinityGroup).join(AffinityGroup)
    for row in query.where(AffinityMember.vm.in_(vm_ids)).order_by(AffinityGroup.name):
        found[row.vm_id].append(row.group)
    return found


def members_of(group_ids: Sequence[str]) -> dict[str, list[Vm]]:
    """The VMs of these groups, by name."""
    found: dict[str, list[Vm]] = defaultdict(list)
    query = AffinityMember.select(AffinityMember.group, Vm).join(Vm)
    for row in query.where(AffinityMember.group.in_(group_ids)).order_by(Vm.name, Vm.id):
        found[row.group_id].append(row.vm)
    return found


def affinity_rules_of(vm: Vm) -> AffinityRules | None:
    """The hosts that a VM's affinity groups require, forbid, prefer and avoid; None for a VM without groups.

    Locks the groups until the caller's transaction ends.
    """
    query = AffinityGroup.select().join(AffinityMember).where(AffinityMember.vm == vm.id)
    groups = list(query)
    if not groups:
        return None
    _lock({group.id for group in groups})
    others = AffinityMember.select(AffinityMember.group, Vm.host, Vm.destination).join(Vm)
    others = others.where(AffinityMember.group.in_([group.id for group in groups]) & (AffinityMember.vm != vm.id))
    places: dict[str, set[str]] = defaultdict(set)
    for group_id, host_id, destination_id in tuples(others, tuple[str, str | None, str | None]):
        # A migrating VM counts on both hosts until it has arrived.
        places[group_id] |= {place for place in (host_id, destination_id) if place}
    named = hosts_of([group.id for group in groups])
    for group in groups:
        if group.kind in (RUN_ON, NOT_RUN_ON):
            places[group.id] = {host.id for host in named.get(group.id, ())}
    return affinity_rules(((group.kind, group.strict, places[group.id]) for group in groups), _in_service())


def affinity_rules(groups: Iterable[tuple[str, bool, Collection[str]]], in_service: Collection[str]) -> AffinityRules:
    """The same from facts: each group's kind, strictness, and the hosts of its other VMs or those that it names. Pure.

    A host that is silent or in maintenance does not bind the VMs that must be together: they gather on another.
    """
    apart: set[str] = set()
    together: list[frozenset[str]] = []
    avoid: set[str] = set()
    prefer: set[str] = set()
    forbidden: set[str] = set()
    required: list[frozenset[str]] = []
    for kind, strict, places in groups:
        if kind == NOT_RUN_ON:
            (forbidden if strict else avoid).update(places)
            continue
        if kind == RUN_ON:
            if strict:
                required.append(frozenset(places))
            else:
                prefer.update(places)
            continue
        if kind == ANTI_AFFINITY:
            (apart if strict else avoid).update(places)
            continue
        present = frozenset(places) & frozenset(in_service)
        if strict and present:
            together.append(present)
        elif not strict:
            prefer.update(present)
    return AffinityRules(
        frozenset(apart), tuple(together), frozenset(avoid), frozenset(prefer), frozenset(forbidden), tuple(required)
    )


def _in_service() -> set[str]:
    query = Host.select(Host.id).join(Cluster)
    fit = (Host.state == HostState.UP) & Host.enabled & ~Host.maintenance & ~Host.removed & Cluster.enabled
    return {host_id for (host_id,) in tuples(query.where(fit), tuple[str])}


def _lock(group_ids: Collection[str]) -> None:
    """Until the transaction ends nobody else places a VM of these groups. On SQLite the transaction has the database to
    itself anyway."""
    if group_ids and not database.is_sqlite():
        query = AffinityGroup.select(AffinityGroup.id).where(AffinityGroup.id.in_(sorted(group_ids)))
        list(query.order_by(AffinityGroup.id).for_update().tuples())


def _word(kind: str) -> str:
    return kind.replace("_", "-")


def _record(event: str, group: AffinityGroup, actor: str, message: str) -> None:
    outcome = events.Outcome.SUCCEEDED
    events.record(event, outcome, actor, "affinity_group", group.id, group.name, message, account_id=group.account_id)
