"""Serial console and screen."""

from __future__ import annotations

from xml.etree.ElementTree import Element

from ostler_agent.hypervisors.libvirt.xml.element import element


def serial_console() -> list[Element]:
    """The first serial port, which is also the console."""
    return [
        element("serial", element("target", type="isa-serial", port="0"), type="pty"),
        element("console", element("target", type="serial", port="0"), type="pty"),
    ]


def screen() -> list[Element]:
    """A VGA card with VNC on a Unix socket that libvirt creates: no TCP port is open."""
    return [
        element("graphics", element("listen", type="socket"), type="vnc"),
        element("video", element("model", type="vga", vram="16384", heads="1", primary="yes")),
    ]
