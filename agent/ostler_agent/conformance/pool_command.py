"""`ostler-agent pool list` and `ostler-agent pool check`."""

from __future__ import annotations

import argparse
import fnmatch
import inspect
import json
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from ostler_common.config import ConfigError
from ostler_common.secret import Secret

from ostler_agent.config import AgentConfig
from ostler_agent.conformance.pool_checks import CHECKS, PoolBench, opened
from ostler_agent.conformance.results import Result, attempt, report
from ostler_agent.pools import PoolSpec, registry

MAX_PASSWORD_BYTES = 4096


def list_pools(config: AgentConfig, options: argparse.Namespace) -> int:
    """Prints the installed pool types."""
    rows = [_row(name) for name in registry.names()]
    if options.output == "json":
        print(json.dumps(rows, indent=2))
        return 0
    for row in rows:
        detail = (
            f"unusable: {row['error']}"
            if "error" in row
            else ", ".join(word for word in ("shared", "encryption") if row[word])
        )
        print(f"{row['name']:<24}{detail}".rstrip())
    return 0


def check(config: AgentConfig, options: argparse.Namespace) -> int:
    """Runs the conformance checks of a pool type; returns 1 if one failed.

    Raises ConfigError, and what the pool type raises if the pool cannot be made usable.
    """
    checks = {name: CHECKS[name] for name in CHECKS if fnmatch.fnmatch(name, options.only)}
    if not checks:
        raise ConfigError(f"--only {options.only}: no check matches; there are {', '.join(CHECKS)}")
    values = dict(_option(text) for text in options.option)
    spec = PoolSpec(str(uuid.uuid4()), options.name, options.path, options.source, values)
    with opened(PoolBench(registry.load(options.name), spec, _password(options.password_file))) as bench:
        return report(_results(bench, list(checks)), options.output)


def _results(bench: PoolBench, names: list[str]) -> Iterator[Result]:
    for name in names:
        began, work = time.monotonic(), CHECKS[name]
        outcome, detail = attempt(name, lambda: work(bench), bench.clean_up)  # noqa: B023 (called at once)
        summary = " ".join((inspect.getdoc(work) or "").split())
        yield Result(name, summary, outcome, detail, time.monotonic() - began)


def _password(file: Path | None) -> Secret | None:
    """The first line of a file, or of standard input for "-"."""
    if file is None:
        return None
    if str(file) == "-":
        line = sys.stdin.buffer.readline(MAX_PASSWORD_BYTES)
    else:
        with file.open("rb") as stream:
            line = stream.readline(MAX_PASSWORD_BYTES)
    return Secret(line.rstrip(b"\n"))


def _option(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise ConfigError(f"--option {text}: must be KEY=VALUE")
    return key, value


def _row(name: str) -> dict[str, object]:
    try:
        pool_type = registry.load(name)
    except ConfigError as error:
        return {"name": name, "error": error.message}
    return {"name": name, "shared": pool_type.shared, "encryption": pool_type.encryption}
