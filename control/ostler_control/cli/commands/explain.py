"""`ostler explain`."""

from __future__ import annotations

import difflib
import re

import click
from click.shell_completion import CompletionItem
from ostler_common.errors import NotFoundError
from ostler_common.reasons import Explanation, explanations

from ostler_control.cli.options import output_option
from ostler_control.cli.output import View, print_one

# Links of the documentation: [keys.md](keys.md).
_LINK = re.compile(r"\[([^\]]+)\]\(([^)]+\.md)\)")

VIEW: View[tuple[str, Explanation]] = View(
    noun="reason",
    columns=(
        ("reason", lambda item: item[0]),
        ("means", lambda item: _plain(item[1].means)),
        ("what to do", lambda item: _plain(item[1].remedy)),
    ),
    name=lambda item: item[0],
    plain=lambda item: {"reason": item[0], "means": _plain(item[1].means), "remedy": _plain(item[1].remedy)},
)


def _plain(text: str) -> str:
    """Without links."""
    return _LINK.sub(r"docs/\2", text)


class _Reason(click.ParamType[str]):
    name = "reason"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return [CompletionItem(reason) for reason in explanations() if reason.startswith(incomplete.upper())]


@click.command()
@click.argument("reason", type=_Reason())
@output_option
def command(reason: str, output: str) -> None:
    """Explains a reason code, the word in brackets after an error.

    Prints what the reason means and what to do about it. No control plane is asked.

    \b
    Examples:
      ostler explain NO_FEASIBLE_HOST
      ostler explain HOST_SILENT -o json
    """
    code = reason.strip("[]").upper()
    found = explanations().get(code)
    if found is None:
        near = difflib.get_close_matches(code, explanations(), n=3)
        hint = f" (did you mean {' or '.join(near)}?)" if near else ""
        raise NotFoundError(f'there is no reason "{code}"{hint}', "REASON_NOT_FOUND")
    print_one(VIEW, (code, found), output)
