"""Fails when a package uses `Any` more often than it may (`make lint`).

The numbers may only fall: whoever removes an `Any` lowers the number here. `Json = Any` and its like are one each; a
line whose comment begins with "Any:" states a reason and counts all the same.
"""

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Package or, in the control plane, room -> how many uses of `Any` it may have.
ALLOWED: dict[str, int] = {
    "agent": 104,
    "common": 30,
    "control/agents": 1,
    "control/api": 10,
    "control/catalog": 1,
    "control/cli": 19,
    "control/database": 1,
    "control/drs": 9,
    "control/drs_plans": 2,
    "control/hosts": 1,
    "control/imports": 1,
    "control/keys": 1,
    "control/models": 1,
    "control/operations": 4,
    "control/scheduling": 2,
    "control/settings": 2,
    "control/vmware": 2,
}


def uses(path: Path) -> int:
    """How often a module names `Any`, imports aside."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return sum(isinstance(node, ast.Name) and node.id == "Any" for node in ast.walk(tree))


def room_of(path: Path) -> str:
    """ "agent", "common", or a room of the control plane."""
    parts = path.relative_to(ROOT).parts
    if parts[0] != "control":
        return parts[0]
    return f"control/{Path(parts[2]).stem}"


def count() -> dict[str, int]:
    """Uses of `Any` in each room that has some. Migrations are frozen copies and count for nothing."""
    found: dict[str, int] = {}
    for package in ("agent/ostler_agent", "common/ostler/client", "common/ostler_common", "control/ostler_control"):
        for path in (ROOT / package).rglob("*.py"):
            if "migrations" not in path.parts and (number := uses(path)):
                found[room_of(path)] = found.get(room_of(path), 0) + number
    return found


def main() -> None:
    found = count()
    worse = [f"{room}: {n}, allowed {ALLOWED.get(room, 0)}" for room, n in found.items() if n > ALLOWED.get(room, 0)]
    better = [f"{room}: {n}, allowed {m}" for room, m in ALLOWED.items() if (n := found.get(room, 0)) < m]
    if worse:
        sys.exit(f"more uses of Any than allowed (type them): {'; '.join(sorted(worse))}")
    if better:
        print(f"fewer uses of Any than allowed: lower the numbers in tests/count_any.py: {'; '.join(sorted(better))}")


if __name__ == "__main__":
    main()
