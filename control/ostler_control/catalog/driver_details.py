"""Details for drivers that templates and service offerings give to their VMs; their keys begin with PREFIX."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from ostler_common.driver_details import MAX_FIELDS, MAX_LENGTH
from ostler_common.errors import bad_field

from ostler_control import events
from ostler_control.database import transaction
from ostler_control.models import OfferingDetail, ServiceOffering, Template, TemplateDetail, tuples

PREFIX = "driver."


def check_given(details: Mapping[str, str]) -> None:
    """Checks what a template or service offering is to have, before any host is known.

    Raises InvalidArgumentError INVALID_DETAIL, TOO_MANY_DETAILS.
    """
    if len(details) > MAX_FIELDS:
        raise bad_field("details", f"has {len(details)} keys; at most {MAX_FIELDS} are allowed", "TOO_MANY_DETAILS")
    for key, value in details.items():
        name = key.removeprefix(PREFIX)
        if name == key or not 1 <= len(name) <= 64:
            raise bad_field("details", f'the key "{key[:80]}" must be driver. and a driver\'s word', "INVALID_DETAIL")
        if not 1 <= len(value) <= MAX_LENGTH:
            raise bad_field("details", f"the value of {key} must have 1 to {MAX_LENGTH} characters", "INVALID_DETAIL")


def add_to_template(template: Template, details: Mapping[str, str]) -> None:
    """Gives a template details that were checked, within the caller's transaction."""
    for key, value in details.items():
        TemplateDetail.create(template=template, key=key.removeprefix(PREFIX), value=value)


def add_to_offering(offering: ServiceOffering, details: Mapping[str, str]) -> None:
    """Gives a service offering details that were checked, within the caller's transaction."""
    for key, value in details.items():
        OfferingDetail.create(service_offering=offering, key=key.removeprefix(PREFIX), value=value)


def replace_of_template(template: Template, details: Mapping[str, str], actor: str) -> None:
    """Gives a template these details instead of its own; its VMs get them at their next start. Raises as
    `check_given`."""
    check_given(details)
    with transaction():
        TemplateDetail.delete().where(TemplateDetail.template == template.id).execute()
        add_to_template(template, details)
        events.done("template.update", actor, template, f"details: {', '.join(sorted(details)) or 'none'}")


def replace_of_offering(offering: ServiceOffering, details: Mapping[str, str], actor: str) -> None:
    """Gives a service offering these details instead of its own; its VMs get them at their next start. Raises as
    `check_given`."""
    check_given(details)
    with transaction():
        OfferingDetail.delete().where(OfferingDetail.service_offering == offering.id).execute()
        add_to_offering(offering, details)
        events.done("offering.update", actor, offering, f"details: {', '.join(sorted(details)) or 'none'}")


def of_templates(template_ids: Collection[str]) -> dict[str, dict[str, str]]:
    """The details that VMs from these templates get, by template; templates without any are left out."""
    query = TemplateDetail.select(TemplateDetail.template, TemplateDetail.key, TemplateDetail.value)
    query = query.where(TemplateDetail.template.in_(list(template_ids))).order_by(TemplateDetail.key)
    return _by_owner(tuples(query, tuple[str, str, str]))


def of_offerings(offering_ids: Collection[str]) -> dict[str, dict[str, str]]:
    """The details that VMs of these service offerings get, by offering; offerings without any are left out."""
    query = OfferingDetail.select(OfferingDetail.service_offering, OfferingDetail.key, OfferingDetail.value)
    query = query.where(OfferingDetail.service_offering.in_(list(offering_ids))).order_by(OfferingDetail.key)
    return _by_owner(tuples(query, tuple[str, str, str]))


def _by_owner(rows: Iterable[tuple[str, str, str]]) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for owner_id, key, value in rows:
        found.setdefault(owner_id, {})[PREFIX + key] = value
    return found
