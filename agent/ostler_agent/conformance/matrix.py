"""The support matrix of drivers: what each states, as a table in Markdown."""

from __future__ import annotations

from collections.abc import Mapping

from ostler_common.hypervisors import Function

from ostler_agent.hypervisors.info import DriverInfo


def support_matrix(drivers: Mapping[str, DriverInfo]) -> str:
    """One column per driver, by name; one row per property and function."""
    rows = [
        ["", *(f"`{name}`" for name in drivers)],
        ["---"] * (len(drivers) + 1),
        ["type", *(f"{info.type} ({info.display_name})" for info in drivers.values())],
        ["interface version", *(str(info.interface_version) for info in drivers.values())],
        ["disk formats", *(", ".join(sorted(info.template_formats)) for info in drivers.values())],
        ["pool types", *(_pool_types(info) for info in drivers.values())],
    ]
    for function in sorted(Function):
        marks = ["yes" if function in info.functions else "no" for info in drivers.values()]
        rows.append([f"`{function}`: {function.summary}", *marks])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _pool_types(info: DriverInfo) -> str:
    return "all" if info.pool_types is None else ", ".join(sorted(info.pool_types))
