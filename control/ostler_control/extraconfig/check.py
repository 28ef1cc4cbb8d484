"""Whether extra configuration is what its owner may have: names the first element that is not, and the rule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ostler_common.errors import FailedPreconditionError
from ostler_common.xml_fragment import Node

from ostler_control.extraconfig.host_access import Path, find_host_access
from ostler_control.extraconfig.rules import Rule

ENABLED = "enable.additional.vm.configuration"
ALLOWED = "allow.additional.vm.configuration.list.kvm"
HOST_ACCESS = "allow.additional.vm.configuration.host.access"

# What Ostler sets itself and relies on: nobody's list can allow it.
OWNED = {
    ("name",): "the VM's identity",
    ("uuid",): "the VM's identity",
    ("title",): "the VM's name",
    ("metadata",): "the mark of a VM that Ostler manages",
    ("memory",): "the size from the service offering",
    ("currentMemory",): "the size from the service offering",
    ("maxMemory",): "the size from the service offering",
    ("vcpu",): "the size from the service offering",
    ("vcpus",): "the size from the service offering",
    ("os", "type"): "the kind of machine",
}
_MAX_RULES_SHOWN = 12


@dataclass(frozen=True)
class Policy:
    """What extra configuration may have.

    host_access: whether it may reach the host beyond the VM; every_element: whatever the rules are, all but what is
    Ostler's passes; list_name: where the rules are from, for the refusal.
    """

    rules: tuple[Rule, ...]
    host_access: bool = False
    every_element: bool = False
    list_name: str = ALLOWED


def check(nodes: Sequence[Node], policy: Policy, below: Path = ()) -> None:
    """Refuses extra configuration that its owner may not have. below: the path of the elements that hold `nodes`.

    Raises FailedPreconditionError: EXTRA_CONFIG_OWNED, EXTRA_CONFIG_NOT_ALLOWED, EXTRA_CONFIG_HOST_ACCESS. The message
    and the metadata (element, rule) name the element and the rule that refuses it.
    """
    for node in nodes:
        _check_element(node, (*below, node.name), policy, admitted=False)


def _check_element(node: Node, path: Path, policy: Policy, admitted: bool) -> None:
    if path in OWNED:
        raise _refusal(node, path, "EXTRA_CONFIG_OWNED", f"{OWNED[path]} is Ostler's to set", "OWNED")
    admitted = policy.every_element or _is_admitted(node, path, policy, admitted)
    access = find_host_access(path, node)
    if access and not policy.host_access:
        what = f"it {access}; an admin must allow that with {HOST_ACCESS}"
        raise _refusal(node, path, "EXTRA_CONFIG_HOST_ACCESS", what, HOST_ACCESS)
    for child in node.children:
        _check_element(child, (*path, child.name), policy, admitted)


def _is_admitted(node: Node, path: Path, policy: Policy, outer: bool) -> bool:
    """Whether the element is admitted with what is inside; False: it is admitted bare, on the way to a rule's path."""
    own = [rule for rule in policy.rules if rule.path == path]
    complaints = [rule.complaint(node.attributes) for rule in own]
    if "" in complaints or (outer and not own):
        return True
    bare = not node.attributes and not node.text
    leads_on = any(len(rule.path) > len(path) and rule.path[: len(path)] == path for rule in policy.rules)
    if leads_on and bare:
        return False
    if own:
        raise _not_allowed(node, path, f"{complaints[0]}, and the rule is {own[0]}", str(own[0]))
    if leads_on:
        found = f"the attribute {next(iter(node.attributes))}" if node.attributes else "text"
        what = f"it has {found}, and {policy.list_name} allows this element only bare, around others"
        raise _not_allowed(node, path, what, policy.list_name)
    raise _not_allowed(node, path, f"{policy.list_name} allows {_shown(policy.rules)}", policy.list_name)


def _shown(rules: Sequence[Rule]) -> str:
    if not rules:
        return "nothing"
    more = f" and {len(rules) - _MAX_RULES_SHOWN} more" if len(rules) > _MAX_RULES_SHOWN else ""
    return ", ".join(map(str, rules[:_MAX_RULES_SHOWN])) + more


def _not_allowed(node: Node, path: Path, what: str, rule: str) -> FailedPreconditionError:
    return _refusal(node, path, "EXTRA_CONFIG_NOT_ALLOWED", what, rule)


def _refusal(node: Node, path: Path, reason: str, what: str, rule: str) -> FailedPreconditionError:
    element = "/".join(path)
    return FailedPreconditionError(
        f"extra configuration may not have {element} (line {node.line}): {what}",
        reason,
        {"element": element, "line": str(node.line), "rule": rule},
    )
