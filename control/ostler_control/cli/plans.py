"""DRS plans as people see them: a bar per host, a row per move, and why."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import click
from ostler.control.v1 import drs_pb2 as pb
from ostler_common.errors import InvalidArgumentError
from ostler_common.text import printable

from ostler_control.cli import bars, text
from ostler_control.cli.output import Listing, View, print_data, print_list
from ostler_control.cli.plain import to_plain

_LEFT_SHOWN = 10


def word(message: pb.DrsPlan | pb.DrsMove, field: str) -> str:
    """An enum's value as a word or two."""
    return text.enum_of(message, field).replace("_", " ")


def _counts(plan: pb.DrsPlan) -> str:
    done = sum(move.state == pb.DrsMove.DONE for move in plan.moves)
    return f"{done}/{len(plan.moves)}"


VIEW = View[pb.DrsPlan](
    "plan",
    columns=[
        ("name", lambda p: p.name),
        ("cluster", lambda p: p.cluster_name),
        ("mode", lambda p: word(p, "mode")),
        ("type", lambda p: word(p, "type")),
        ("state", lambda p: word(p, "state")),
        ("done", _counts),
        ("imbalance", lambda p: f"{p.imbalance_before:.1%} -> {p.imbalance_after:.1%}"),
        ("age", lambda p: text.age(p, "create_time")),
    ],
)
MOVES = View[pb.DrsMove](
    "move",
    columns=[
        ("#", lambda m: str(m.position)),
        ("vm", lambda m: m.vm_name),
        ("from", lambda m: m.source_name),
        ("to", lambda m: m.destination_name),
        ("sends", lambda m: text.size(m.cost_bytes)),
        ("imbalance", lambda m: f"{m.imbalance_before:.1%} -> {m.imbalance_after:.1%}"),
        ("state", lambda m: word(m, "state") if m.state != pb.DrsMove.PENDING else ""),
        ("why not", lambda m: m.state_reason),
    ],
    name=lambda m: m.vm_name,
)


def print_plan(plan: pb.DrsPlan, output: str, *, cpu: bool = False, why: bool = False) -> None:
    """Prints a plan with its moves and the hosts before and after. why: with what led to each move."""
    if output == "name":
        click.echo(plan.name)
        return
    if output != "table":
        print_data(to_plain(plan), output)
        return
    click.echo(printable(headline(plan)))
    if plan.outcome:
        click.echo(printable(plan.outcome))
    if plan.hosts:
        _echo(["", *bars.lines(bars_of(plan.hosts, plan.left_hosts, cpu), now=not plan.moves)])
    if plan.moves:
        click.echo()
        print_list(MOVES, plan.moves, Listing(output))
    if why:
        _echo(_reasons(plan.moves))
    _echo(left_out(plan))


def headline(plan: pb.DrsPlan) -> str:
    """`plan-1a2b3c4d (balance, under review): 4 moves; then ... (imbalance 80.0 % -> 5.0 %)`."""
    numbers = f"imbalance {plan.imbalance_before:.1%} -> {plan.imbalance_after:.1%}"
    return f"{plan.name} ({word(plan, 'mode')}, {word(plan, 'state')}): {plan.explanation} ({numbers})"


def print_status(status: pb.ClusterStatus, output: str, *, cpu: bool = False) -> None:
    """Prints how a cluster is loaded now."""
    if output != "table":
        print_data(to_plain(status), output)
        return
    first, *rest = notes(status)
    _echo([first, "", *bars.lines(bars_of(status.hosts, status.left_hosts, cpu), now=True), *rest])


def notes(status: pb.ClusterStatus) -> list[str]:
    """What there is to say about a cluster's load, beside its hosts; the summary comes first."""
    lines = [f"cluster {status.cluster_name}, {status.metric}: {status.explanation}"]
    lines += [f"broken rule: {rule.explanation} (ostler drs generate --repair)" for rule in status.broken]
    if status.HasField("active_plan"):
        lines += ["", f"being executed: {headline(status.active_plan)}"]
    if status.HasField("next_plan_time"):
        lines += ["", f"next automatic plan: {text.when(status, 'next_plan_time')}"]
    elif not status.automatic:
        lines += ["", "automatic plans are off (ostler setting set drs.automatic.enable true)"]
    return lines


def print_power(plan: pb.PowerPlan, output: str) -> None:
    """Prints which hosts to switch, and the commands that do it."""
    if output != "table":
        print_data(to_plain(plan), output)
        return
    lines = [f"cluster {plan.cluster_name}: {plan.explanation}"]
    if plan.moves:
        click.echo(printable(lines.pop()) + "\n")
        print_list(MOVES, plan.moves, Listing(output))
    if plan.automatic:
        lines += ["", "hosts are switched automatically (drs.power.automatic)"]
    else:
        for change in plan.switch_off:
            lines += ["", f"to switch off {change.host_name} ({change.reason}):"]
            lines += [f"  ostler host {words} {change.host_name}" for words in ("maintenance enter", "power-off")]
        for change in plan.switch_on:
            lines += ["", f"to switch on {change.host_name}:"]
            lines += [f"  ostler host {words} {change.host_name}" for words in ("power-on", "maintenance leave")]
    _echo(lines)


POOLS = View[pb.PoolShare](
    "pool",
    columns=[
        ("pool", lambda p: p.pool_name),
        ("used", lambda p: f"{p.before:.0%}" if p.before == p.after else f"{p.before:.0%} -> {p.after:.0%}"),
    ],
    name=lambda p: p.pool_name,
)
STORAGE_MOVES = View[pb.StorageMove](
    "move",
    columns=[
        ("volume", lambda m: m.volume_name),
        ("from", lambda m: m.source_name),
        ("to", lambda m: m.destination_name),
        ("copies", lambda m: text.size(m.cost_bytes)),
        ("imbalance", lambda m: f"{m.imbalance_before:.1%} -> {m.imbalance_after:.1%}"),
    ],
    name=lambda m: m.volume_name,
)


def print_storage(plan: pb.StoragePlan, output: str) -> None:
    """Prints which volumes to move to which pools."""
    if output != "table":
        print_data(to_plain(plan), output)
        return
    numbers = f"imbalance {plan.imbalance_before:.1%} -> {plan.imbalance_after:.1%}"
    click.echo(printable(f"zone {plan.zone_name}: {plan.explanation} ({numbers})\n"))
    print_list(POOLS, plan.pools, Listing(output))
    if plan.moves:
        click.echo()
        print_list(STORAGE_MOVES, plan.moves, Listing(output))
    _echo(f"volume {one.name} stays: {one.explanation}" for one in plan.left_volumes[:_LEFT_SHOWN])


def draw(path: Path, hosts: Iterable[pb.HostShare], left: Iterable[pb.LeftOut], title: str, plan: pb.DrsPlan) -> None:
    """Writes a picture. Raises InvalidArgumentError UNWRITABLE_FILE."""
    moves = [(move.vm_name, move.source_name, move.destination_name) for move in plan.moves]
    try:
        path.write_text(bars.svg(bars_of(hosts, left, False), title, moves), encoding="utf-8")
    except OSError as error:
        raise InvalidArgumentError(f"{path}: {error.strerror}", "UNWRITABLE_FILE") from None


def bars_of(hosts: Iterable[pb.HostShare], left: Iterable[pb.LeftOut], cpu: bool = False) -> list[bars.Bar]:
    """Hosts as bars, by name: of their memory, or of their CPUs."""
    why = {host.name: host.code.lower().replace("_", " ") for host in left}
    return [
        bars.Bar(
            host.host_name,
            host.cpu_before if cpu else host.memory_before,
            host.cpu_after if cpu else host.memory_after,
            host.vms_before,
            host.vms_after,
            "" if host.counted else why.get(host.host_name, ""),
        )
        for host in sorted(hosts, key=lambda host: host.host_name)
    ]


def _reasons(moves: Sequence[pb.DrsMove]) -> list[str]:
    out = []
    for move in moves:
        out += ["", f"{move.position}. {move.vm_name}: {move.reason}"]
        if move.considered:
            others = (f"{o.vm_name} -> {o.destination_name} gains {o.gain:.2%}" for o in move.considered)
            out.append(f"   next best: {'; '.join(others)}")
    return out


def left_out(plan: pb.DrsPlan) -> list[str]:
    """What the planner left out, and why."""
    out = []
    if plan.left_counts:
        counts = ", ".join(f"{number} {_code(code)}" for code, number in sorted(plan.left_counts.items()))
        out += ["", f"VMs left out: {counts}"]
        out += [f"  {vm.name}: {vm.explanation}" for vm in plan.left_vms[:_LEFT_SHOWN]]
    if plan.refused:
        counts = ", ".join(f"{number} {_code(code)}" for code, number in sorted(plan.refused.items()))
        out += ["", f"refused pairs of VM and host: {counts}"]
    out += [f"broken rule afterwards: {rule.explanation}" for rule in plan.broken_after]
    return out


def _code(code: str) -> str:
    return code.lower().replace("_", " ")


def _echo(lines: Iterable[str]) -> None:
    for line in lines:
        click.echo(printable(line))
