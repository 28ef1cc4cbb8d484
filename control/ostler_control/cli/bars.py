"""How full hosts are before and after, drawn: as lines of text, and as an SVG picture."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

_WIDTH = 18
_MAX_LINES = 40
_NAME = 16


@dataclass(frozen=True)
class Bar:
    """A host. before, after: shares of what its VMs may be given, 1.0 is all; note: why it takes no part, else ""."""

    name: str
    before: float
    after: float
    vms_before: int
    vms_after: int
    note: str = ""


def lines(bars: Sequence[Bar], *, now: bool = False) -> list[str]:
    """A line per host; of many hosts those that change, and of these the most changed.

    now: nothing changes, so there is one bar per host, and of many hosts the fullest are shown.
    """
    shown = list(bars)
    if len(shown) > _MAX_LINES:
        most = sorted(
            range(len(bars)), key=lambda i: (-(bars[i].before if now else abs(bars[i].after - bars[i].before)), i)
        )[:_MAX_LINES]
        shown = [bars[i] for i in sorted(most)]
    wide = min(max(4, *(len(bar.name) for bar in shown)), _NAME) if shown else 4
    titles = ("LOAD",) if now else ("BEFORE", "AFTER")
    head = "HOST".ljust(wide) + "  " + "".join(title.ljust(_WIDTH + 7) for title in titles) + "VMS"
    out = [head]
    for bar in shown:
        name = bar.name if len(bar.name) <= wide else bar.name[: wide - 1] + "~"
        vms = str(bar.vms_before) if bar.vms_before == bar.vms_after else f"{bar.vms_before} -> {bar.vms_after}"
        drawn = _bar(bar.before) if now else f"{_bar(bar.before)} {_bar(bar.after)}"
        row = f"{name.ljust(wide)}  {drawn} {vms}"
        out.append(f"{row}  ({bar.note})" if bar.note else row)
    if len(shown) < len(bars):
        rest = "less load" if now else "less change"
        out.append(f"... and {len(bars) - len(shown)} hosts with {rest} (-o json has all)")
    return out


def _bar(share: float) -> str:
    full, empty = "█░" if "utf" in (sys.stdout.encoding or "").lower() else "#."
    filled = min(max(round(share * _WIDTH), 0), _WIDTH)
    return full * filled + empty * (_WIDTH - filled) + f"{share:>5.0%} "


def svg(bars: Sequence[Bar], title: str, moves: Sequence[tuple[str, str, str]]) -> str:
    """A picture: two bars a host, and the moves (VM, from, to) as arcs between them on the right."""
    row, left, scale, top = 34, 150, 420, 56
    height = top + row * len(bars) + 16
    at = {bar.name: top + row * index + 12 for index, bar in enumerate(bars)}
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 860 {height}" font-family="sans-serif" font-size="12">',
        f'<rect width="860" height="{height}" fill="#ffffff"/>',
        f'<text x="16" y="22" font-size="15">{escape(title)}</text>',
        '<rect x="16" y="32" width="10" height="10" fill="#b0b7c3"/><text x="32" y="41">before</text>',
        '<rect x="88" y="32" width="10" height="10" fill="#2f6fde"/><text x="104" y="41">after</text>',
    ]
    for bar in bars:
        y = at[bar.name] - 12
        note = f" ({bar.note})" if bar.note else ""
        out.append(f'<text x="{left - 8}" y="{y + 16}" text-anchor="end">{escape(bar.name)}</text>')
        out.append(f'<rect x="{left}" y="{y}" width="{scale}" height="24" fill="#f2f4f7"/>')
        for share, offset, colour in ((bar.before, 2, "#b0b7c3"), (bar.after, 13, "#2f6fde")):
            width = min(max(share, 0.0), 1.0) * scale
            out.append(f'<rect x="{left}" y="{y + offset}" width="{width:.1f}" height="9" fill="{colour}"/>')
        text = f"{bar.before:.0%} → {bar.after:.0%}{note}"
        out.append(f'<text x="{left + scale + 6}" y="{y + 16}">{escape(text)}</text>')
    for vm, source, target in moves:
        if source in at and target in at:
            begin, end = at[source], at[target]
            bend = 690 + min(abs(end - begin) / 2, 150)
            out.append(
                f'<path d="M690 {begin} C {bend:.0f} {begin}, {bend:.0f} {end}, 690 {end}" fill="none" '
                f'stroke="#2f6fde" stroke-opacity="0.5"><title>{escape(f"{vm}: {source} → {target}")}</title></path>'
            )
            out.append(f'<circle cx="690" cy="{end}" r="3" fill="#2f6fde"/>')
    return "\n".join([*out, "</svg>"]) + "\n"
