"""Templates whose VMs get an emulated TPM."""

from __future__ import annotations

from collections.abc import Collection

from ostler_control import database, events
from ostler_control.models import Template, TemplateTpm, tuples


def add(template: Template) -> None:
    """VMs that are created from it from now on get a TPM: within the caller's transaction."""
    TemplateTpm.create(template=template)


def update(template: Template, tpm: bool, actor: str) -> None:
    """Whether VMs that are created from it from now on get one; recorded. Others keep what they have."""
    with database.transaction():
        TemplateTpm.delete().where(TemplateTpm.template == template.id).execute()
        if tpm:
            add(template)
        events.done("template.update", actor, template, "gives its VMs a TPM" if tpm else "gives its VMs no TPM")


def of_templates(template_ids: Collection[str]) -> set[str]:
    """Those of these templates that give their VMs a TPM."""
    query = TemplateTpm.select(TemplateTpm.template).where(TemplateTpm.template.in_(list(template_ids)))
    return {template_id for (template_id,) in tuples(query, tuple[str])}
