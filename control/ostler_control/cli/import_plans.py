"""Import plans as people see them: a board of what happens now, and a report of what came of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime

import click
from ostler.control.v1 import import_plan_pb2 as pb
from ostler_common.text import printable
from ostler_common.units import format_duration

from ostler_control.cli import text
from ostler_control.cli.labels import joined as labels_joined
from ostler_control.cli.output import Listing, View, print_data, print_list
from ostler_control.cli.plain import to_plain

ACTIVE = (pb.ImportPlan.RUNNING, pb.ImportPlan.PAUSING)
_VM = pb.ImportPlanVm
_COUNTED = (
    (_VM.RUNNING, "running"),
    (_VM.WAITING, "waiting"),
    (_VM.FAILED, "failed"),
    (_VM.REFUSED, "no-go"),
    (_VM.SKIPPED, "skipped"),
    (_VM.CANCELLED, "cancelled"),
)


def _done(plan: pb.ImportPlan) -> str:
    return f"{sum(vm.state == _VM.IMPORTED for vm in plan.vms)}/{len(plan.vms)}"


VIEW = View[pb.ImportPlan](
    "import plan",
    columns=[
        ("name", lambda p: p.name),
        ("source", lambda p: p.source_name),
        ("state", lambda p: text.enum_of(p, "state")),
        ("imported", _done),
        ("left", lambda p: about(p.left_s)),
        ("outcome", lambda p: p.outcome),
        ("age", lambda p: text.age(p, "create_time")),
    ],
    details=[("labels", lambda p: labels_joined(p.labels))],
)


def state_of(vm: pb.ImportPlanVm) -> str:
    """A VM's state in a word: "no-go" for what the check refuses."""
    if vm.state == _VM.REFUSED or (vm.state == _VM.WAITING and vm.HasField("go") and not vm.go):
        return "no-go"
    return text.enum_of(vm, "state")


def about(seconds: int) -> str:
    """`4m 10s`, "" for 0."""
    return format_duration(seconds) if seconds else ""


def took(vm: pb.ImportPlanVm) -> str:
    """How long the import took, or takes so far."""
    if not vm.HasField("begin_time"):
        return ""
    end = text.moment(vm.end_time) if vm.HasField("end_time") else datetime.now(UTC)
    return format_duration(max(1, round((end - text.moment(vm.begin_time)).total_seconds())))


def speed(vm: pb.ImportPlanVm) -> str:
    """`84.0 MiB/s`, "" when it is not known."""
    return f"{vm.bytes_per_s / (1 << 20):.1f} MiB/s" if vm.bytes_per_s else ""


def _percent(vm: pb.ImportPlanVm) -> str:
    return f"{vm.percent}%" if vm.state in (_VM.RUNNING, _VM.IMPORTED) else ""


def note(vm: pb.ImportPlanVm) -> str:
    """Why the VM is in its state, with the reason code of what went wrong."""
    if vm.reason:
        return f"{vm.reason} [{vm.reason_code}]" if vm.reason_code else vm.reason
    if state_of(vm) == "no-go":
        return "; ".join(f"{f.message} [{f.code}]" for f in vm.findings if f.severity == f.ERROR)
    return f"comes after {', '.join(vm.after)}" if vm.after and vm.state == _VM.WAITING else ""


BOARD = View[pb.ImportPlanVm](
    "VM",
    columns=[
        ("vm", lambda v: v.source_vm),
        ("state", state_of),
        ("phase", lambda v: v.phase if v.state == _VM.RUNNING else ""),
        ("done", _percent),
        ("speed", speed),
        ("left", lambda v: about(v.left_s) if v.state == _VM.RUNNING else ""),
        ("took", lambda v: took(v) if v.state != _VM.RUNNING else ""),
        ("note", note),
    ],
    name=lambda v: v.source_vm,
)
CHECKS = View[pb.ImportPlanVm](
    "VM",
    columns=[
        ("vm", lambda v: v.source_vm),
        ("new name", lambda v: v.name),
        ("go", lambda v: {True: "go", False: "no-go"}[v.go] if v.HasField("go") else "not checked"),
        ("size", lambda v: text.size(v.size_bytes)),
        ("esxi host", lambda v: v.esxi_host),
        ("estimate", lambda v: about(v.estimated_s)),
        ("after", lambda v: ", ".join(v.after)),
    ],
    name=lambda v: v.source_vm,
)
REPORT = View[pb.ImportPlanVm](
    "VM",
    columns=[
        ("vm", lambda v: v.source_vm),
        ("new name", lambda v: v.name),
        ("state", state_of),
        ("size", lambda v: text.size(v.size_bytes)),
        ("took", took),
        ("attempts", lambda v: str(v.attempt or "")),
        ("reason", lambda v: v.reason_code),
        ("why", lambda v: v.reason),
        ("remedy", lambda v: v.remedy),
    ],
    name=lambda v: v.source_vm,
)


def headline(plan: pb.ImportPlan) -> str:
    """`wave-1: running, 3 of 10 VMs imported, 2 running, 5 waiting; about 12m left`."""
    counts = Counter(state_of(vm) for vm in plan.vms)
    told = [f"{counts['imported']} of {len(plan.vms)} VMs imported"]
    told += [f"{counts[word]} {word}" for _, word in _COUNTED if counts[word]]
    left = f"; about {about(plan.left_s)} left" if plan.left_s and plan.state in ACTIVE else ""
    return f"{plan.name}: {text.enum_of(plan, 'state')}, {', '.join(told)}{left}"


def print_board(plan: pb.ImportPlan, output: str) -> None:
    """Prints how far a plan and each of its VMs have come."""
    if output in ("json", "yaml"):
        print_data(_plain(plan), output)
        return
    if output == "table":
        click.echo(printable(headline(plan)))
        if plan.outcome and plan.state == pb.ImportPlan.PAUSED:
            click.echo(printable(plan.outcome))
        click.echo()
    print_list(BOARD, plan.vms, Listing(output))


def print_plan(plan: pb.ImportPlan, output: str) -> None:
    """Prints a plan: its limits, its VMs, what the last check found."""
    if output == "name":
        click.echo(plan.name)
    elif output in ("json", "yaml"):
        print_data(_plain(plan), output)
    elif output == "csv":
        print_list(CHECKS, plan.vms, Listing(output))
    else:
        for line in about_plan(plan):
            click.echo(printable(line))
        click.echo()
        print_list(CHECKS, plan.vms, Listing(output))
        for line in _findings(plan.vms):
            click.echo(printable(line))


def print_report(plan: pb.ImportPlan, output: str) -> None:
    """Prints what was imported, how long it took, what failed and why."""
    if output in ("json", "yaml"):
        rows = [{title.replace(" ", "_"): cell(vm) for title, cell in REPORT.columns} for vm in plan.vms]
        print_data({"plan": plan.name, "source": plan.source_name, "outcome": plan.outcome, "vms": rows}, output)
        return
    if output == "table":
        click.echo(printable(headline(plan)))
        click.echo()
        print_list(_SHORT_REPORT, plan.vms, Listing(output))
        for vm in plan.vms:
            if vm.state in (_VM.FAILED, _VM.REFUSED):
                click.echo(printable(f"\n{vm.source_vm}: {note(vm)}"))
                if vm.remedy:
                    click.echo(printable(f"  {vm.remedy}"))
        if any(vm.state not in (_VM.IMPORTED, _VM.RUNNING, _VM.WAITING) for vm in plan.vms):
            click.echo(f"\nto try again what was not imported: ostler import plan retry {plan.name}", err=True)
        return
    print_list(REPORT, plan.vms, Listing(output))


_SHORT_REPORT = View[pb.ImportPlanVm]("VM", columns=REPORT.columns[:7], name=REPORT.name)


def _plain(plan: pb.ImportPlan) -> object:
    shown = pb.ImportPlan()
    shown.CopyFrom(plan)
    shown.ClearField("document")
    return to_plain(shown)


def about_plan(plan: pb.ImportPlan) -> list[str]:
    """What there is to say about a plan, beside its VMs."""
    limits = plan.limits
    lines = [
        headline(plan),
        f"source {plan.source_name}; at once {limits.vms} VMs, {limits.per_esxi_host} per ESXi host,"
        f" {limits.per_vcenter} per vCenter, {limits.per_conversion_host} per conversion host",
    ]
    if plan.labels:
        lines.append(f"labels {labels_joined(plan.labels)}")
    return lines + ([plan.outcome] if plan.outcome else [])


def _findings(vms: Sequence[pb.ImportPlanVm]) -> list[str]:
    lines = []
    for vm in vms:
        for finding in sorted(vm.findings, key=lambda finding: -finding.severity):
            severity = text.enum_of(finding, "severity").upper()
            lines.append(f"{severity:8} {vm.source_vm}: {finding.message} [{finding.code}]")
            if finding.remedy:
                lines.append(f"         {finding.remedy}")
    return ["", *lines] if lines else []
