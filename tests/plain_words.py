"""`python -m tests.plain_words`: no text uses a word that the glossary replaced. Part of `make lint`.

A list cannot judge a sentence; it only keeps old words from coming back.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = ("agent", "common", "control", "docs", "protos", "systemd", "README.md", "CONTRIBUTING.md")
ENDINGS = {".py", ".md", ".proto", ".toml", ".service"}

# What is not said any more -> what is said. Case matters only where a pattern says so.
REPLACED = {
    r"\bpapers\b": "credentials",
    r"(\b|_)(MOST|LONGEST|SMALLEST|LARGEST)_[A-Z]": "MAX_, MIN_",
    r"_A_(SWEEP|PRUNING|TICK|SECOND)": "_PER_",
    r"\bbears? (to be )?repeat": "is idempotent",
    r"\b(is|are|be) had by\b": "to ..., or the command itself",
    r"\bgiven out\b": "allocated",
    r"\bpull(s|ed|ing)? the plug\b": "force off",
    r"\byes-sayers?\b": "eligible hosts",
    r"\bbe_patient\b": "set_credential_wait",
    r"\bsettl(e|es|ed|ing)\b": "say the effect: resolve, finish, record",
    r"\bfat\b": "thick",
    r"\benrolment\b": "enrollment",
    r"\bmend(s|ed|ing)?\b": "fix, repair",
    r"\bby the clock\b": "on a schedule",
    r"\bdiary\b": "audit log",
    r"\bshunned\b": "avoid",
    r"\bunbegun\b": "unstarted",
    r"\bamiss\b": "problem",
    r"\b(somebody|whoever|nobody) (to |who )?(say|said|says) go\b": "approval",
}
_PATTERNS = [
    (re.compile(pattern, 0 if pattern.startswith(r"(\b|_)(MOST") else re.IGNORECASE), better)
    for pattern, better in REPLACED.items()
]


def found(text: str) -> list[tuple[int, str, str]]:
    """Line, word and its replacement for each hit."""
    hits = []
    for number, line in enumerate(text.splitlines(), 1):
        for pattern, better in _PATTERNS:
            if match := pattern.search(line):
                hits.append((number, match.group(0), better))
    return hits


def main() -> int:
    listed = subprocess.run(["git", "ls-files", *FOLDERS], cwd=ROOT, capture_output=True, text=True, check=True)
    count = 0
    for name in listed.stdout.split():
        path = ROOT / name
        # Released migrations are frozen, and the glossary names the words that are not used.
        if path.suffix not in ENDINGS or "migrations/" in name or name == "docs/glossary.md":
            continue
        for number, word, better in found(path.read_text()):
            print(f"{name}:{number}: {word!r}: {better}")
            count += 1
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main())
