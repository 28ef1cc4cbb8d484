"""Secrets, named by the key's UUID; never on disk, never readable through libvirt."""

from __future__ import annotations

from xml.etree.ElementTree import Element

from ostler_agent.hypervisors.libvirt.xml.element import element, to_text

USAGE_PREFIX = "ostler:"


def usage(vm_id: str, key_id: str) -> str:
    """The secret's usage id, which marks it as Ostler's and names its VM."""
    return f"{USAGE_PREFIX}{vm_id}:{key_id}"


def owner(usage_id: str) -> str | None:
    """The VM of a secret; None if the secret is not Ostler's."""
    return usage_id.split(":")[1] if usage_id.startswith(USAGE_PREFIX) and usage_id.count(":") == 2 else None


def secret_xml(vm_id: str, key_id: str) -> str:
    """The definition, without the value."""
    root: Element = element(
        "secret",
        element("uuid", key_id),
        element("description", "A volume's key, managed by Ostler while a VM uses it"),
        element("usage", element("volume", usage(vm_id, key_id)), type="volume"),
        ephemeral="yes",
        private="yes",
    )
    return to_text(root)
