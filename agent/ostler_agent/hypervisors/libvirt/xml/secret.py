"""Secrets, named by the key's UUID; never on disk, never readable through libvirt."""

from __future__ import annotations

from xml.etree.ElementTree import Element

from ostler_agent.hypervisors.libvirt.xml.element import element, to_text
from ostler_agent.spec import KeyUse

USAGE_PREFIX = "ostler:"


def usage(vm_id: str, key_id: str) -> str:
    """The secret's usage id, which marks it as Ostler's and names its VM."""
    return f"{USAGE_PREFIX}{vm_id}:{key_id}"


def owner(usage_id: str) -> str | None:
    """The VM of a secret; None if the secret is not Ostler's."""
    return usage_id.split(":")[1] if usage_id.startswith(USAGE_PREFIX) and usage_id.count(":") == 2 else None


# How libvirt calls the element that holds the usage id.
_NAMES = {KeyUse.VOLUME: "volume", KeyUse.TPM: "name"}
_DESCRIPTIONS = {KeyUse.VOLUME: "A volume's key", KeyUse.TPM: "The key of a VM's TPM"}


def secret_xml(vm_id: str, key_id: str, use: KeyUse = KeyUse.VOLUME) -> str:
    """The definition, without the value."""
    root: Element = element(
        "secret",
        element("uuid", key_id),
        element("description", f"{_DESCRIPTIONS[use]}, managed by Ostler while a VM uses it"),
        element("usage", element(_NAMES[use], usage(vm_id, key_id)), type=use.value),
        ephemeral="yes",
        private="yes",
    )
    return to_text(root)
