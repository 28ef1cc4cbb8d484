"""The reference of reason codes: kinds and messages from the code, the rest from ostler_common/reasons.toml."""

from __future__ import annotations

import re

from ostler_common.reasons import Explanation, explanations

from docs.site.reasons import Reason, found

HEAD = """---
hide: [toc]
---

# Reason codes

Every error has a reason: a word that stays the same, for programs and for searching. `ostler` prints it in brackets
after the message, `ostler explain REASON` prints what stands here, and [programs](../api.md#errors) read it from the
error. The web console and plans show reasons, too. Words in capitals in a message stand for what varies.

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


def page() -> str:
    """Markdown: the kinds, then a section for each reason."""
    kinds = [f"| `{kind}` | {text} |" for kind, text in KINDS.items()]
    explained = explanations()
    sections = [section(reason, explained[name]) for name, reason in found().items()]
    return "\n".join(
        [HEAD, "## Kinds\n", "| kind | what to do |", "| --- | --- |", *kinds, "\n## Reasons\n", *sections]
    )


def section(reason: Reason, explanation: Explanation) -> str:
    """A heading to link to, what the reason means, what to do, and what messages with it say."""
    kinds = f" *{', '.join(sorted(reason.kinds))}*" if reason.kinds else ""
    # The page is one folder below the others.
    means, remedy = (text.replace("](", "](../") for text in (explanation.means, explanation.remedy))
    messages = [f"- {_text(message)}" for message in reason.messages]
    return "\n".join([f"### {reason.name}\n", f"{means}{kinds}\n", f"**What to do:** {remedy}\n", *messages, ""])


def _text(message: str) -> str:
    """A message as Markdown that shows it as it is."""
    return re.sub(r"([\\*_<\[\]])", r"\\\1", message.replace("\n", " "))
