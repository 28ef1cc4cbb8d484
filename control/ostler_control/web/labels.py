"""Changing the labels of an object, on its page."""

from __future__ import annotations

import click
from ostler.control.v1.label_pb2 import UpdateLabelsRequest
from ostler_common.errors import InvalidArgumentError

from ostler_control.cli.app import App
from ostler_control.cli.labels import changes_of
from ostler_control.web.actions import Action
from ostler_control.web.forms import Call, Option

_CHANGES = Option("changes", "KEY=VALUE sets one, KEY- removes one", is_argument=True, is_list=True)


def label_action(noun: str, kind: str = "", admins: bool = False) -> Action:
    """The action that does what the verb `label` of a noun does. kind: what people call the object, if not the noun."""

    def update(app: App, call: Call) -> None:
        try:
            changed, removed = changes_of(call.text("changes").split())
        except click.UsageError as error:
            raise InvalidArgumentError(f"labels: {error.message}", "INVALID_LABEL") from None
        named = {noun.replace(" ", "_"): call.target}
        app.client.labels.UpdateLabels(UpdateLabelsRequest(**named, set=changed, remove=removed))

    question = f"Change the labels of {kind or noun} {{name}}? Several changes are separated by spaces."
    return Action("label", (*noun.split(), "label"), "Labels", question, update, options=(_CHANGES,), admins=admins)
