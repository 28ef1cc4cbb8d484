"""`python -m tests.chaos [--duration S] [--seed N] [--replicas 1|3] [--runs N]`: hunts, and prints what it found."""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from pathlib import Path

import structlog

from tests.chaos.run import run


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--duration", type=float, default=60.0, help="seconds of faults in each run")
    parser.add_argument("--seed", type=int, default=1, help="of the first run; each later one adds one")
    parser.add_argument("--replicas", type=int, choices=(1, 3), default=1)
    parser.add_argument("--runs", type=int, default=1)
    asked = parser.parse_args()
    # The agents of the hunt are in this process, and have much to tell.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    found = 0
    for seed in range(asked.seed, asked.seed + asked.runs):
        with tempfile.TemporaryDirectory(prefix="ostler-chaos-", ignore_cleanup_errors=True) as directory:
            verdict = run(Path(directory), seed, asked.duration, asked.replicas)
        print("\n".join(verdict.lines()), flush=True)
        found += len(verdict.violations)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
