"""The emulated TPM."""

from __future__ import annotations

from xml.etree.ElementTree import Element

from ostler_agent.hypervisors.libvirt.xml.element import element
from ostler_agent.spec import Key


def tpm(key: Key) -> Element:
    """A TPM 2.0 that swtpm emulates; libvirt starts and ends it with the VM. Its state is encrypted under the key."""
    backend = element("backend", element("encryption", secret=key.key_id), type="emulator", version="2.0")
    return element("tpm", backend, model="tpm-crb")


def key_ids(domain: Element) -> set[str]:
    """Ids of the keys of a domain's TPM."""
    found = (encryption.get("secret") for encryption in domain.iterfind("devices/tpm/backend/encryption"))
    return {key_id for key_id in found if key_id}


def is_in(domain: Element) -> bool:
    """Whether a domain has a TPM that keeps a state on its host."""
    return domain.find("devices/tpm/backend[@type='emulator']") is not None
