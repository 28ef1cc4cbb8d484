"""Templates whose VMs get an emulated TPM."""

from __future__ import annotations

from collections.abc import Collection

from ostler_control.models import Template, TemplateTpm, tuples


def add(template: Template) -> None:
    """VMs that are created from it from now on get a TPM: within the caller's transaction."""
    TemplateTpm.create(template=template)


def of_templates(template_ids: Collection[str]) -> set[str]:
    """Those of these templates that give their VMs a TPM."""
    query = TemplateTpm.select(TemplateTpm.template).where(TemplateTpm.template.in_(list(template_ids)))
    return {template_id for (template_id,) in tuples(query, tuple[str])}
