"""Fails when common/ostler is not what protos/ makes (`make lint`)."""

import filecmp
import runpy
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def differing(left: Path, right: Path) -> list[str]:
    """Files that differ between two trees or are in one only, byte-code aside."""
    names = {p.relative_to(d) for d in (left, right) for p in d.rglob("*.py*") if p.suffix in {".py", ".pyi"}}
    names = {name for name in names if name.parts[0] != "client"}  # written by hand
    same = [
        n for n in names if (left / n).exists() and (right / n).exists() and filecmp.cmp(left / n, right / n, False)
    ]
    return sorted(str(n) for n in names - set(same))


def main() -> None:
    with tempfile.TemporaryDirectory() as fresh:
        runpy.run_path(str(ROOT / "protos" / "generate.py"))["generate"](Path(fresh))
        stale = differing(Path(fresh, "ostler"), ROOT / "common" / "ostler")
    if stale:
        sys.exit(f"stubs out of step with protos/ (run `make protos`): {', '.join(stale)}")


if __name__ == "__main__":
    main()
