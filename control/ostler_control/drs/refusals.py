"""Who is left out, and why: VMs before anything is looked for, and pairs of VM and host by what stands in the way."""

from __future__ import annotations

from collections import Counter

import numpy as np

from ostler_control.drs.model import Mode, Vm
from ostler_control.drs.state import State

_CELLS = 4_000_000
# The cooldown doubles with each further move within a day, up to a day.
_DAY_S = 86_400.0
_MAX_DOUBLINGS = 12


def left_vms(state: State, mode: Mode) -> dict[int, tuple[str, str]]:
    """VMs that take no part, with code and explanation."""
    found: dict[int, tuple[str, str]] = {}
    evacuating = mode is Mode.EVACUATE
    for position, vm in enumerate(state.vms):
        host = state.hosts[state.at[position]]
        if evacuating and not state.leaving[state.at[position]]:
            if not vm.movable or not host.in_service:
                found[position] = ("ELSEWHERE", "it is not on a host that is emptied")
        elif not vm.movable:
            found[position] = ("NOT_MOVABLE", "it is not running, or something else works on it")
        elif not host.live_migration:
            found[position] = (
                "FUNCTION_NOT_SUPPORTED",
                f'the hypervisor of its host "{host.name}" does not support live-migration',
            )
        elif host.state != "up":
            found[position] = ("HOST_NOT_UP", f'its host "{host.name}" is {host.state}')
        elif evacuating:
            continue
        elif not host.in_service:
            found[position] = ("HOST_NOT_IN_SERVICE", f'its host "{host.name}" is disabled or in maintenance')
        elif not state.active[state.at[position]]:
            found[position] = ("HOST_NOT_IN_SERVICE", f'its host "{host.name}" has no CPU or memory for VMs')
        elif vm.skip:
            found[position] = ("SKIPPED", "its owner keeps it where it is (ostler vm update --no-drs)")
        elif cooling(state, position):
            found[position] = ("IN_COOLDOWN", _cooldown(vm))
        elif state.measured and (vm.measured_cpu_mhz is None or vm.measured_memory_bytes is None):
            found[position] = ("NO_SAMPLES", "its load is not known yet")
    return found


def _cooldown(vm: Vm) -> str:
    often = f", {vm.recent_moves} times within a day" if vm.recent_moves > 1 else ""
    return f"it has moved recently{often} (drs.vm.cooldown)"


def cooling(state: State, position: int) -> bool:
    """Whether the VM has moved too recently."""
    vm = state.vms[position]
    cooldown_s = float(state.settings.vm_cooldown * 60)
    repeated = min(max(vm.recent_moves - 1, 0), _MAX_DOUBLINGS)
    cooldown_s = max(min(cooldown_s * 2**repeated, _DAY_S), cooldown_s)
    return vm.moved_ago_s is not None and vm.moved_ago_s < cooldown_s


def counts(state: State) -> dict[str, int]:
    """Pairs of a VM and another host in service that the rules forbid now, by the first reason in the order of
    `rules.refusal`."""
    targets = np.flatnonzero(state.active)
    found: Counter[str] = Counter()
    if not len(targets) or not len(state.vms):
        return {}
    codes = state.table.codes[:, targets]
    row_of = state.table.row_of
    on_target = state.active[state.at]
    for row, number in enumerate(np.bincount(row_of, minlength=len(codes))):
        for code, hosts in enumerate(np.bincount(codes[row], minlength=len(state.table.words))):
            found[state.table.words[code]] += int(number * hosts)
    own = state.table.codes[row_of[on_target], state.at[on_target]]
    for code, number in enumerate(np.bincount(own, minlength=len(state.table.words))):
        found[state.table.words[code]] -= int(number)
    _capacity(state, found)
    if state.settings.storage_motion or any(vm.groups for vm in state.vms):
        _last(state, found)
    return {word: number for word, number in sorted(found.items()) if word and number}


def _capacity(state: State, found: Counter[str]) -> None:
    """Pairs that lack CPUs or memory. Equal VMs are counted at once, and only on hosts that do not take the largest."""
    tight = np.flatnonzero(
        state.active & ((state.free_cpu < state.cpu.max(initial=0)) | (state.free_memory < state.memory.max(initial=0)))
    )
    if not len(tight):
        return
    kinds = np.stack([state.table.row_of.astype(float), state.cpu, state.memory])
    kinds, numbers = np.unique(kinds, axis=1, return_counts=True)
    step = max(_CELLS // len(tight), 1)
    for begin in range(0, len(numbers), step):
        row, cpu, memory = (column[begin : begin + step, None] for column in kinds)
        asked = state.allowed[row[:, 0].astype(np.int64)][:, tight]
        number = numbers[begin : begin + step, None]
        no_cpu = asked & (cpu > state.free_cpu[tight])
        no_memory = asked & ~no_cpu & (memory > state.free_memory[tight])
        found["LACKS_CPUS"] += int((no_cpu * number).sum())
        found["LACKS_MEMORY"] += int((no_memory * number).sum())
    # A VM and its own host are no pair.
    own = state.allowed[state.table.row_of, state.at]
    no_cpu = own & (state.cpu > state.free_cpu[state.at])
    found["LACKS_CPUS"] -= int(no_cpu.sum())
    found["LACKS_MEMORY"] -= int((own & ~no_cpu & (state.memory > state.free_memory[state.at])).sum())


def _last(state: State, found: Counter[str]) -> None:
    """Space for disks, and groups: asked of what passed all else."""
    for position, vm in enumerate(state.vms):
        if not (vm.groups or (state.settings.storage_motion and vm.disk_bytes)):
            continue
        fits = state.allowed[state.table.row_of[position]] & (state.cpu[position] <= state.free_cpu)
        fits &= state.memory[position] <= state.free_memory
        fits[state.at[position]] = False
        if state.settings.storage_motion and vm.disk_bytes:
            blocked = (
                fits & state.table.motion[state.table.row_of[position]] & (state.disk[position] > state.storage_free)
            )
            found["LACKS_SPACE"] += int(blocked.sum())
            fits &= ~blocked
        for group in vm.groups:
            before = int(fits.sum())
            state.group_fits(fits, position, group, True)
            found[state.groups[group].kind.value.upper().replace("-", "_")] += before - int(fits.sum())


def stuck(state: State, position: int) -> tuple[str, str]:
    """Why no host takes a VM: the refusals counted in words."""
    row = state.table.row_of[position]
    found = Counter(state.table.words[state.table.codes[row, host]] for host in np.flatnonzero(state.active).tolist())
    del found[""]
    open_ = state.allowed[row]
    no_cpu = open_ & (state.cpu[position] > state.free_cpu)
    no_memory = open_ & ~no_cpu & (state.memory[position] > state.free_memory)
    found["LACKS_CPUS"] += int(no_cpu.sum())
    found["LACKS_MEMORY"] += int(no_memory.sum())
    fits = state.fits(np.array([position]), preferred=False)[0]
    found["GROUP_OR_SPACE"] += int((open_ & ~no_cpu & ~no_memory & ~fits).sum())
    told = ", ".join(f"{number} {code}" for code, number in sorted(found.items()) if number)
    return "NO_HOST_TAKES_IT", f"no host takes it: {told or 'there is no other host'}"
