"""The reference of reason codes: the message and kind from the code, the remedy from reasons.toml or the kind."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path

from docsite.reasons import Reason, found

REMEDIES = Path(__file__).with_name("reasons.toml")
HEAD = """---
hide: [toc]
---

# Reason codes

Every error has a reason: a word that stays the same, for programs and for searching. `ostler` prints it in brackets
after the message; [programs](../api.md#errors) read it from the error. Words in capitals in a message stand for what
varies.

The kind says what is wrong in general, and is what [exit codes](../cli.md#exit-codes) follow. A reason without a kind
belongs to a finding, such as the check of an import, or why a host was refused.
"""
KINDS = {
    "INVALID_ARGUMENT": "The request is wrong in itself: correct the field that the message names.",
    "NOT_FOUND": "The `list` command of the noun shows what there is.",
    "ALREADY_EXISTS": "Use another name, or the object that is there.",
    "FAILED_PRECONDITION": "Not in the present state: change it as the message says, then repeat the call.",
    "RESOURCE_EXHAUSTED": "Free or add what is short.",
    "ABORTED": "Something else changed meanwhile: read the object again and repeat the call.",
    "UNAVAILABLE": "The other side does not answer: it may be restarting. Repeat the call later.",
    "DEADLINE_EXCEEDED": "It took too long and may still have happened: check before you repeat the call.",
    "PERMISSION_DENIED": "Your user may not do this; an admin may.",
    "UNAUTHENTICATED": "Your certificate is not accepted: `ostler user whoami`, then `ostler user renew NAME`.",
    "UNIMPLEMENTED": "This build, host or hypervisor cannot do it.",
    "CANCELLED": "It was cancelled, and what had begun is undone.",
    "INTERNAL": "A bug, or a tool that behaved as it never should: report it with the log of the daemon.",
}


def remedies() -> dict[str, str]:
    """What to do, by reason, where it is more than what the kind says."""
    return {str(name): str(text) for name, text in tomllib.loads(REMEDIES.read_text()).items()}


def page() -> str:
    """Markdown: the kinds, then a row for each reason."""
    kinds = [f"| `{kind}` | {text} |" for kind, text in KINDS.items()]
    written = remedies()
    rows = [row(reason, written) for reason in found().values()]
    return "\n".join(
        [
            HEAD,
            "## Kinds\n",
            "| kind | what to do |",
            "| --- | --- |",
            *kinds,
            "\n## Reasons\n",
            "| reason | kind | message | what to do |",
            "| --- | --- | --- | --- |",
            *rows,
            "",
        ]
    )


def row(reason: Reason, written: Mapping[str, str]) -> str:
    """A reason without a remedy of its own has the one of its kind."""
    kinds = sorted(reason.kinds)
    remedy = written.get(reason.name) or (KINDS[kinds[0]] if kinds else "The message says it.")
    messages = "<br>".join(_cell(message) for message in reason.messages)
    return f"| `{reason.name}` | {', '.join(kinds)} | {messages} | {remedy} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*").replace("\n", " ")
