"""The channel between a VM's guest agent and its host."""

from __future__ import annotations

from xml.etree.ElementTree import Element

from ostler_agent.hypervisors.libvirt.xml.element import element

AGENT_CHANNEL = "org.qemu.guest_agent.0"


def channel() -> Element:
    """A virtio-serial port with a Unix socket that libvirt creates and listens to."""
    return element(
        "channel",
        element("source", mode="bind"),
        element("target", type="virtio", name=AGENT_CHANNEL),
        type="unix",
    )


def has_agent(domain: Element) -> bool:
    """Whether a guest agent is connected."""
    return any(item.get("state") == "connected" for item in _targets(domain))


def has_channel(domain: Element) -> bool:
    """Whether there is a channel for a guest agent."""
    return bool(_targets(domain))


def keep_last(domain: Element) -> None:
    """Removes all channels of guest agents but the last: extra configuration may have given one of its own."""
    for devices in domain.findall("devices"):
        found = [item for item in devices.findall("channel") if _targets_of(item)]
        for item in found[:-1]:
            devices.remove(item)


def _targets(domain: Element) -> list[Element]:
    return [target for item in domain.findall("devices/channel") for target in _targets_of(item)]


def _targets_of(item: Element) -> list[Element]:
    return [target for target in item.findall("target") if target.get("name") == AGENT_CHANNEL]
