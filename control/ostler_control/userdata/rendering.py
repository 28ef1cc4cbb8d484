"""What a guest will get: the one answer, for a deploy, for `ostler userdata render` and for every start of a VM."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from ostler_control.userdata import documents, merging, seed, variables
from ostler_control.userdata.merging import Policy
from ostler_control.userdata.seed import Guest, Seed


@dataclass(frozen=True)
class Source:
    """A document as it was given. name: what errors call it; variables: the names that it declares."""

    name: str
    data: bytes = field(repr=False)
    variables: tuple[str, ...] = ()


@dataclass(frozen=True)
class Inputs:
    """All that decides what a guest gets: the template's document, the VM's own, values, and what the guest is."""

    guest: Guest
    template: Source | None = None
    own: Source | None = None
    policy: Policy = Policy.ALLOW_OVERRIDE
    values: Mapping[str, str] = field(default_factory=dict, repr=False)


def render(inputs: Inputs, max_length_bytes: int) -> Seed:
    """The seed of a guest: user data merged by the policy, values of its variables, network, SSH keys; all checked.

    max_length_bytes: of each document and of the merged one (setting vm.userdata.max.length). Raises
    InvalidArgumentError, with a reason that begins with USERDATA_ for what is wrong with a document, or
    FailedPreconditionError USERDATA_DENIED.
    """
    template, own = (_read(source, max_length_bytes) for source in (inputs.template, inputs.own))
    user_data = merging.combine(template, own, inputs.policy, max_length_bytes)
    return seed.make(replace(inputs.guest, variables=values_used(inputs)), user_data)


def values_used(inputs: Inputs) -> dict[str, str]:
    """The values that reach the guest, all checked. Raises what `variables.check_values` raises."""
    return variables.check_values(_declared(inputs), inputs.values)


def _read(source: Source | None, max_length_bytes: int) -> documents.Document | None:
    return documents.read(source.data, source.name, max_length_bytes) if source else None


def _declared(inputs: Inputs) -> list[str]:
    """The variables of those documents that reach the guest."""
    overridden = inputs.own is not None and inputs.policy is Policy.ALLOW_OVERRIDE
    used = [None if overridden else inputs.template, inputs.own]
    return [name for source in used if source for name in source.variables]
