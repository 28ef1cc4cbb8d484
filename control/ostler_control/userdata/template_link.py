"""The user data that a template links, and what the template says about a VM's own."""

from __future__ import annotations

from collections.abc import Iterable

from ostler_control import database, events
from ostler_control.keys import Keyring
from ostler_control.models import Template, TemplateUserData, UserData
from ostler_control.userdata import registered
from ostler_control.userdata.merging import Policy
from ostler_control.userdata.rendering import Source


def link(template: Template, user_data: UserData | None, policy: Policy | None) -> None:
    """Links user data, in place of any before; None: none. Policy None: ALLOWOVERRIDE. In the caller's transaction."""
    TemplateUserData.delete().where(TemplateUserData.template == template.id).execute()
    if user_data is not None:
        TemplateUserData.create(
            template=template.id, user_data=user_data.id, policy=str(policy or Policy.ALLOW_OVERRIDE)
        )


def update(template: Template, user_data: UserData | None, policy: Policy | None, actor: str) -> None:
    """`link` as a change of its own, recorded. VMs that were made before keep what they have."""
    with database.transaction():
        link(template, user_data, policy)
        what = f"links user data {user_data.name} ({policy or Policy.ALLOW_OVERRIDE})" if user_data else "links none"
        events.done("template.update", actor, template, what)


def of_templates(template_ids: Iterable[str]) -> dict[str, TemplateUserData]:
    """The links of these templates, each with its user data, by the template's id; one without a link is not there."""
    query = TemplateUserData.select(TemplateUserData, UserData).join(UserData)
    return {row.template_id: row for row in query.where(TemplateUserData.template.in_(list(template_ids)))}


def of(template: Template | None) -> TemplateUserData | None:
    """The link of a template with its user data, or None; template None: None."""
    return of_templates([template.id]).get(template.id) if template else None


def source(template: Template | None, keys: Keyring) -> tuple[Source | None, Policy]:
    """The linked document, ready to be rendered, and the policy. template None: there is none."""
    found = of(template)
    if template is None or found is None:
        return None, Policy.ALLOW_OVERRIDE
    document = registered.load(found.user_data, keys)
    name = f"{document.name} of template {template.name}"
    return Source(name, document.data, document.variables), Policy(found.policy)
