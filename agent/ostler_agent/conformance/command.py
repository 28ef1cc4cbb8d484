"""`ostler-agent driver list` and `ostler-agent driver check`."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from ostler_common.config import ConfigError
from ostler_common.errors import FailedPreconditionError, OstlerError

from ostler_agent.config import AgentConfig
from ostler_agent.conformance import unit
from ostler_agent.conformance.bench import Setup, open_bench
from ostler_agent.conformance.matrix import support_matrix
from ostler_agent.conformance.processes import supervise
from ostler_agent.conformance.results import report
from ostler_agent.conformance.suite import run_checks, select_checks
from ostler_agent.hypervisors import registry
from ostler_agent.hypervisors.driver import DriverContext
from ostler_agent.spec import DiskFormat
from ostler_agent.state_lock import lock_state

USAGE = 2  # exit code for wrong usage or configuration


def list_drivers(config: AgentConfig, options: argparse.Namespace) -> int:
    """Prints the installed drivers and what each states."""
    if options.output == "markdown":
        print(support_matrix({name: registry.load(name).info for name in registry.names()}), end="")
        return 0
    rows = [_row(name, config) for name in registry.names()]
    if options.output == "json":
        print(json.dumps(rows, indent=2))
        return 0
    for row in rows:
        print(f"{'*' if row['configured'] else ' '} {row['name']}")
        if "error" in row:
            print(f"    unusable: {row['error']}")
            continue
        print(f"    type       {row['type']} ({row['display_name']})")
        for key in ("formats", "pool_types", "functions", "details"):
            print(f"    {key.replace('_', ' '):<10} {', '.join(row[key])}")
    return 0


def check(config: AgentConfig, options: argparse.Namespace) -> int:
    """Runs the conformance checks; returns 1 if one failed.

    Raises ConfigError, FailedPreconditionError ALREADY_RUNNING, NO_IMAGE.
    """
    select_checks(options.only)
    if options.image and not options.image.is_file():
        raise FailedPreconditionError(f"the file {options.image} does not exist", "NO_IMAGE")
    if options.as_unit:
        unit.exec_as_unit(
            [*sys.orig_argv[: -len(sys.argv) + 1], *(word for word in sys.argv[1:] if word != "--as-unit")]
        )
    # Two drivers on one hypervisor could remove each other's keys as leftovers.
    with lock_state(config.state_dir) if config.state_dir.is_dir() else nullcontext():
        scratch = Path(tempfile.mkdtemp(prefix="ostler-driver-check-", dir=options.scratch))
        try:
            return supervise(lambda supervisor: _check(config, options, scratch, supervisor))
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def _check(config: AgentConfig, options: argparse.Namespace, scratch: Path, supervisor: int) -> int:
    """Runs in a process of its own, see `processes.supervise`."""
    try:
        return _run(config, options, scratch, supervisor)
    except ConfigError as error:
        print(f"ostler-agent: {error.message}", file=sys.stderr)
        return USAGE
    except OstlerError as error:
        print(f"ostler-agent: {error.message}", file=sys.stderr)
        return 1


def _run(config: AgentConfig, options: argparse.Namespace, scratch: Path, supervisor: int) -> int:
    configured = config.driver_options if config.driver == options.name else {}
    state_dir = scratch / "driver"
    state_dir.mkdir(mode=0o700)
    context = DriverContext(state_dir, {**configured, **dict(_pair("--option", text) for text in options.option)})
    setup = Setup(
        scratch,
        options.image and options.image.absolute(),
        DiskFormat(options.image_format),
        options.ready,
        options.bridge,
        supervisor,
        options.unit_kill_mode,
        dict(_pair("--detail", text) for text in options.detail),
    )
    bench = open_bench(options.name, context, setup)
    try:
        return report(run_checks(bench, options.only, options.repeat), options.output)
    finally:
        bench.close()


def _pair(option: str, text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise ConfigError(f"{option} {text}: must be KEY=VALUE")
    return key, value


def _row(name: str, config: AgentConfig) -> dict[str, Any]:
    row: dict[str, Any] = {"name": name, "configured": name == config.driver}
    try:
        info = registry.load(name).info
    except ConfigError as error:
        return row | {"error": error.message}
    return row | {
        "type": info.type,
        "display_name": info.display_name,
        "interface_version": info.interface_version,
        "formats": sorted(info.template_formats),
        "pool_types": ["all"] if info.pool_types is None else sorted(info.pool_types),
        "functions": sorted(info.functions),
        "details": [field.key for field in info.details],
    }
