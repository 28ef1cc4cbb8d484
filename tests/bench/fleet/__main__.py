"""How much a control plane carries: `python -m tests.bench.fleet --help`.

Hosts and VMs in a database, an agent for every host (simulated: it listens and answers as an agent does, and has no
hypervisor), the control plane as it is installed, and clients, all on this machine. Prints a table.
"""

from __future__ import annotations

import argparse
import os
import sys
import time

from tests.bench.fleet.measure import Sizes, measure


def main(argv: list[str] | None = None) -> int:
    """Returns 1 when a goal is missed."""
    asked = _parser().parse_args(argv)
    sizes = Sizes(
        asked.hosts, asked.vms, asked.creates, asked.rest, asked.work, asked.replicas, asked.passes, asked.share
    )
    kinds = ["sqlite", "postgresql"] if asked.database == "both" else [asked.database]
    ok = True
    for kind in kinds:
        print(
            f"# {sizes.hosts:,} hosts, {sizes.vms:,} VMs on {kind}, {time.strftime('%Y-%m-%d')}, "
            f"{os.cpu_count()} CPUs shared with agents and clients, load average before: {os.getloadavg()[0]:.1f}",
            flush=True,
        )
        for line in measure(kind, sizes):
            ok &= line.ok is not False
            mark = {None: "", True: "ok", False: "MISSED"}[line.ok]
            print(f"{line.what:55} {line.figure:>24}  {line.goal:>12}  {mark}".rstrip(), flush=True)
    return 0 if ok else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.fleet", description=__doc__)
    parser.add_argument("--database", choices=("sqlite", "postgresql", "both"), default="both")
    parser.add_argument("--hosts", type=int, default=Sizes.hosts)
    parser.add_argument("--vms", type=int, default=Sizes.vms)
    parser.add_argument("--creates", type=int, default=Sizes.creates, help="VMs created at once")
    parser.add_argument("--rest", type=float, default=Sizes.rest_s, help="seconds for which rest is watched")
    parser.add_argument("--work", type=float, default=Sizes.work_s, help="seconds that an agent takes for a job")
    parser.add_argument("--replicas", type=int, default=Sizes.replicas, help="control planes (PostgreSQL)")
    share_help = "of a core, for each control plane, as on a slow machine of its own (root)"
    parser.add_argument("--share", type=float, default=Sizes.share, help=share_help)
    parser.add_argument("--passes", type=int, default=Sizes.passes, help="how often the list of VMs is read")
    return parser


if __name__ == "__main__":
    sys.exit(main())
