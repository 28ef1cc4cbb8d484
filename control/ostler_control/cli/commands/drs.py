"""`ostler drs`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
from ostler_common.errors import InvalidArgumentError
from ostler_common.units import format_size

from ostler_control.cli import bars
from ostler_control.cli.lazy import Noun
from ostler_control.cli.output import print_data
from ostler_control.cli.text import printable

_LEFT_OUT_SHOWN = 10


@click.group(cls=Noun)
def command() -> None:
    """Balancing: which VMs should move where, and why."""


@command.command("simulate")
@click.option(
    "--cluster",
    "file",
    type=click.Path(path_type=Path, dir_okay=False, exists=True, allow_dash=True),
    required=True,
    help="Hosts, VMs, groups and settings as JSON; - is standard input.",
)
@click.option("--set", "changes", multiple=True, metavar="NAME=VALUE", help="A setting instead of the file's; repeat.")
@click.option("--repair", is_flag=True, help="Only mend broken affinity and anti-affinity rules.")
@click.option("--evacuate", multiple=True, metavar="HOST", help="Only bring every VM off this host; repeat.")
@click.option(
    "--svg", type=click.Path(path_type=Path, dir_okay=False, writable=True), help="Also draw before and after here."
)
@click.option(
    "-o",
    "--output",
    type=click.Choice(("table", "json", "yaml")),
    default="table",
    show_default=True,
    help="How to print.",
)
def simulate(
    file: Path, changes: tuple[str, ...], repair: bool, evacuate: tuple[str, ...], svg: Path | None, output: str
) -> None:
    """Plans on a file; needs no control plane.

    \b
    Example:
      ostler drs simulate --cluster web.json --set drs.metric=cpu -o json
    """
    if repair and evacuate:
        raise click.UsageError("--repair and --evacuate are two different plans")
    # Imported here: numpy takes longer to load than all of the help.
    from ostler_control.drs.model import Mode
    from ostler_control.drs.simulate import simulate as run

    mode = Mode.REPAIR if repair else Mode.EVACUATE if evacuate else Mode.BALANCE
    try:
        content = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    except OSError as error:
        raise InvalidArgumentError(f"{file}: {error.strerror}", "UNREADABLE_FILE") from None
    answer = run(content, _settings(changes), mode=mode, leaving=evacuate)
    drawn = _bars(answer)
    if svg:
        moves = [(move["vm"], move["from"], move["to"]) for move in answer["migrations"]]
        try:
            svg.write_text(bars.svg(drawn, _headline(answer), moves), encoding="utf-8")
        except OSError as error:
            raise InvalidArgumentError(f"{svg}: {error.strerror}", "UNWRITABLE_FILE") from None
    if output != "table":
        print_data(answer, output)
        return
    for line in [_headline(answer), "", *bars.lines(drawn), *_moves(answer), *_left_out(answer)]:
        click.echo(printable(line))


def _settings(changes: tuple[str, ...]) -> dict[str, str]:
    values = {}
    for change in changes:
        name, equals, value = change.partition("=")
        if not equals or not name:
            raise click.UsageError(f'--set {change}: write NAME=VALUE, as in "drs.metric=cpu"')
        values[name] = value
    return values


def _headline(answer: dict[str, Any]) -> str:
    numbers = f"imbalance {answer['imbalance_before']:.1%} -> {answer['imbalance_after']:.1%}"
    return f"{answer['explanation']} ({numbers}, planned in {answer['elapsed_s'] * 1000:.0f} ms)"


def _bars(answer: dict[str, Any]) -> list[bars.Bar]:
    metric = "cpu" if answer["settings"]["drs.metric"] == "cpu" else "memory"
    why = {host["name"]: host["code"] for host in answer["left_out"]["hosts"]}
    return [
        bars.Bar(
            host["name"],
            host[f"{metric}_before"],
            host[f"{metric}_after"],
            host["vms_before"],
            host["vms_after"],
            why.get(host["name"], "").lower().replace("_", " "),
        )
        for host in answer["hosts"]
    ]


def _moves(answer: dict[str, Any]) -> list[str]:
    out = []
    for number, move in enumerate(answer["migrations"], 1):
        disks = ", with its disks" if move["storage_motion"] else ""
        out += [
            "",
            f"{number}. {move['vm']}: {move['from']} -> {move['to']} ({format_size(move['cost_bytes'])}{disks})",
        ]
        out.append(f"   {move['reason']}")
        if move["needs"]:
            out.append(f"   after {', '.join(str(position + 1) for position in move['needs'])}")
        if move["considered"]:
            others = (f"{other['vm']} -> {other['to']} gains {other['gain']:.2%}" for other in move["considered"])
            out.append(f"   next best: {'; '.join(others)}")
    return out


def _left_out(answer: dict[str, Any]) -> list[str]:
    out = []
    for rule in answer["broken_rules"]["after"]:
        out += ["", f"broken rule: {rule['explanation']} (--repair plans to mend it)"]
    for kind in ("vms", "hosts", "moves"):
        counts = answer["refused"][kind]
        if counts:
            told = ", ".join(f"{number} {code.lower().replace('_', ' ')}" for code, number in counts.items())
            out += ["", f"{'refused moves' if kind == 'moves' else f'{kind} left out'}: {told}"]
            out += [
                f"  {one['name']}: {one['explanation']}" for one in answer["left_out"].get(kind, [])[:_LEFT_OUT_SHOWN]
            ]
    return out
