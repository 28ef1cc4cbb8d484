"""Details for drivers that templates and service offerings give to their VMs. People write their keys with "driver."."""

from __future__ import annotations

from collections.abc import Mapping

from ostler_common.driver_details import MAX_FIELDS, MAX_LENGTH
from ostler_common.errors import bad_field

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


def of_template(template_id: str | None) -> dict[str, str]:
    """The details that VMs from this template get, by the driver's keys."""
    query = TemplateDetail.select(TemplateDetail.key, TemplateDetail.value).order_by(TemplateDetail.key)
    return dict(tuples(query.where(TemplateDetail.template == template_id), tuple[str, str]))


def of_offering(offering_id: str) -> dict[str, str]:
    """The details that VMs of this service offering get, by the driver's keys."""
    query = OfferingDetail.select(OfferingDetail.key, OfferingDetail.value).order_by(OfferingDetail.key)
    return dict(tuples(query.where(OfferingDetail.service_offering == offering_id), tuple[str, str]))


def prefixed(details: Mapping[str, str]) -> dict[str, str]:
    """The same with the keys that people use."""
    return {PREFIX + key: value for key, value in details.items()}
