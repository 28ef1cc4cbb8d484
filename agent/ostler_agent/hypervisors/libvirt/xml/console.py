"""Serial console and screen."""

from __future__ import annotations

from pathlib import Path
from xml.etree.ElementTree import Element

from ostler_agent.hypervisors.libvirt.xml.element import element


def serial_console(log: Path) -> list[Element]:
    """The first serial port, which is also the console. log: what the guest prints is appended to it."""
    written = element("log", file=str(log), append="on")
    return [
        element("serial", written, element("target", type="isa-serial", port="0"), type="pty"),
        element("console", element("target", type="serial", port="0"), type="pty"),
    ]


def drop_log(domain: Element) -> bool:
    """Removes the logs of a domain's serial ports; returns whether there was one."""
    logged = [port for name in ("serial", "console") for port in domain.iterfind(f"devices/{name}[log]")]
    for port in logged:
        for written in port.findall("log"):
            port.remove(written)
    return bool(logged)


def screen() -> list[Element]:
    """A VGA card with VNC on a Unix socket that libvirt creates: no TCP port is open."""
    return [
        element("graphics", element("listen", type="socket"), type="vnc"),
        element("video", element("model", type="vga", vram="16384", heads="1", primary="yes")),
    ]
