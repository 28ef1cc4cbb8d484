"""The whole check: rows, hosts, rows again. What changed meanwhile is not reported."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from ostler.agent.v1 import vm_pb2
from ostler_common.errors import OstlerError

from ostler_control.agents import Agents, HostAddress
from ostler_control.agents.power_states import power_state
from ostler_control.check import rows as reading
from ostler_control.check.files import check_file, describe
from ostler_control.check.findings import Finding, Reason, Report
from ostler_control.check.machines import Domain, VmRecord, compare_vms, unknown_ids
from ostler_control.check.rows import FileRow, Rows
from ostler_control.keys import Keyring

T = TypeVar("T")
R = TypeVar("R")

_WORKERS = 16
_LIST_DEADLINE_S = 15.0


def inspect(agents: Agents, keys: Keyring) -> Report:
    """Needs a bound database; the control plane may be running. Raises what `rows.read` raises."""
    before = reading.read()
    domains, unchecked = _list_domains(before.hosts, agents)
    found_in_files, not_read = _check_files(before, domains, agents, keys)
    after = reading.read()
    host_names = {host.host_id: host.name for host in before.hosts}
    vms = _unchanged_vms(before, after)
    findings = [
        *compare_vms(vms, domains, host_names, reading.deleted(unknown_ids(vms, domains))),
        *(finding for row, finding in found_in_files if _is_same(row, after.files.get(row.file_id))),
        *_claims(after),
    ]
    checked = (
        f"{len(domains)} of {len(before.hosts)} hosts, {len(before.vms)} VMs, "
        f"{len(before.files) - len(not_read)} of {len(before.files)} files"
    )
    return Report(tuple(findings), (*unchecked, *not_read), checked)


def _list_domains(hosts: Sequence[HostAddress], agents: Agents) -> tuple[dict[str, list[Domain]], list[str]]:
    def ask(host: HostAddress) -> list[Domain]:
        answer = agents.call(host, lambda agent: agent.vms.ListVms, vm_pb2.ListVmsRequest(), _LIST_DEADLINE_S)
        return [Domain(vm.vm_id, vm.name, power_state(vm.power_state), vm.managed) for vm in answer.vms]

    domains: dict[str, list[Domain]] = {}
    unchecked = []
    for host, answer in _in_parallel(ask, hosts):
        if isinstance(answer, OstlerError):
            known = answer.reason == "HOST_UNREACHABLE"  # its message names the host
            unchecked.append(answer.message if known else f"host {host.name}: {answer.message}")
        else:
            domains[host.host_id] = answer
    return domains, unchecked


def _check_files(
    rows: Rows, domains: Mapping[str, object], agents: Agents, keys: Keyring
) -> tuple[list[tuple[FileRow, Finding]], list[str]]:
    by_id = {host.host_id: host for host in rows.hosts}
    unchecked: list[str] = []
    work: list[tuple[FileRow, HostAddress]] = []
    for index, (file_id, row) in enumerate(sorted(rows.files.items())):
        able = [host_id for host_id in rows.pool_hosts.get(row.pool_id, ()) if host_id in domains]
        running_on = rows.running_on.get(file_id)
        if not able:
            unchecked.append(f"{describe(row)}: no host that answers has its pool")
        else:
            work.append((row, by_id[running_on if running_on in able else able[index % len(able)]]))
    findings: list[tuple[FileRow, Finding]] = []
    for (row, _), answer in _in_parallel(lambda item: check_file(*item, agents, keys), work):
        if isinstance(answer, OstlerError):
            unchecked.append(f"{describe(row)}: {answer.message}")
        else:
            findings += [(row, finding) for finding in answer]
    return findings, unchecked


def _in_parallel(ask: Callable[[T], R], items: Sequence[T]) -> Iterable[tuple[T, R | OstlerError]]:
    def attempt(item: T) -> R | OstlerError:
        try:
            return ask(item)
        except OstlerError as error:
            return error

    with ThreadPoolExecutor(_WORKERS, thread_name_prefix="check") as pool:
        return list(zip(items, pool.map(attempt, items), strict=True))


def _unchanged_vms(before: Rows, after: Rows) -> list[VmRecord]:
    """With those that came or went as held, so that nothing is said of them."""
    later = {row.id: row for row in after.vms}
    earlier = {row.id: row for row in before.vms}
    changed = [row for row in (*before.vms, *after.vms) if earlier.get(row.id) != later.get(row.id)]
    same = [row for row in before.vms if later.get(row.id) == row]
    return [*same, *(VmRecord(row.id, row.name, row.state, row.home, True) for row in changed)]


def _is_same(row: FileRow, later: FileRow | None) -> bool:
    if later is None:
        return False
    return (row.id, row.pool_id, row.passphrase_id, row.format, row.size_bytes) == (
        later.id,
        later.pool_id,
        later.passphrase_id,
        later.format,
        later.size_bytes,
    )


def _claims(rows: Rows) -> Iterable[Finding]:
    for drift in rows.drifts:
        recorded, actual = (f"{cpus} CPUs and {memory} bytes" for cpus, memory in (drift.recorded, drift.actual))
        message = f"its VMs have {actual}, recorded are {recorded}"
        yield Finding(Reason.CLAIMS_DIFFER, f"host {drift.host_name}", message, "ostler-control correct-claims")
    for host_name, cluster_name in rows.overdrawn:
        message = "its VMs have more CPUs or memory than it has with overcommit: move some"
        command = f"ostler drs generate {cluster_name}"
        yield Finding(Reason.CLAIMS_EXCEED_CAPACITY, f"host {host_name}", message, command)
