"""What a creation must know of the VM's account, template and offering: one statement for all of it."""

from __future__ import annotations

from typing import NamedTuple

from peewee import SQL, ColumnBase, Select, fn

from ostler_control.models import (
    BaseModel,
    OfferingDetail,
    OfferingExtraConfig,
    OfferingMaximum,
    TemplateDetail,
    TemplateTpm,
    TemplateUserData,
    Vm,
    Volume,
)
from ostler_control.prepared import Prepared, Value


class Facts(NamedTuple):
    """name_taken, root_name_taken: whether the account has a VM, a volume of that name.

    The others: whether the template or the offering has what they say. driver_details: either of them.
    """

    name_taken: bool
    root_name_taken: bool
    template_tpm: bool
    template_user_data: bool
    extra_config: bool
    maximum: bool
    driver_details: bool


def _query(value: Value) -> Select:
    def exists(model: type[BaseModel], *conditions: ColumnBase) -> ColumnBase:
        return fn.EXISTS(model.select(SQL("1")).where(*conditions))

    account, template, offering = value("account"), value("template"), value("offering")
    return Select(
        columns=[
            exists(Vm, Vm.account == account, Vm.name == value("name")),
            exists(Volume, Volume.account == account, Volume.name == value("root_name")),
            exists(TemplateTpm, TemplateTpm.template == template),
            exists(TemplateUserData, TemplateUserData.template == template),
            exists(OfferingExtraConfig, OfferingExtraConfig.service_offering == offering),
            exists(OfferingMaximum, OfferingMaximum.service_offering == offering),
            exists(TemplateDetail, TemplateDetail.template == template)
            | exists(OfferingDetail, OfferingDetail.service_offering == offering),
        ]
    )


_FACTS = Prepared(_query)


def find_facts(account_id: str, name: str, root_name: str, template_id: str, offering_id: str) -> Facts:
    """The facts for a new VM of this name. template_id: "" for none."""
    row = _FACTS.first(
        tuple[int, ...], account=account_id, name=name, root_name=root_name, template=template_id, offering=offering_id
    )
    assert row is not None
    return Facts(*map(bool, row))
