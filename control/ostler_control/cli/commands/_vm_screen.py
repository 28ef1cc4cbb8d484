"""What a VM's guest shows and hears: console, its log, screen and keyboard."""

from __future__ import annotations

import sys
from pathlib import Path

import click
from ostler.control.v1 import vm_pb2 as pb

from ostler_control.cli.app import App, pass_app
from ostler_control.cli.names import VM
from ostler_control.cli.options import DURATION


@click.command("console")
@click.argument("vm", type=VM)
@click.option("--force", is_flag=True, help="Take the console over from its present user.")
@click.option("--duration", type=DURATION, help="Disconnect after this time.  [default: never]")
@pass_app
def console(app: App, vm: str, force: bool, duration: int | None) -> None:
    """Connects to a running VM's serial console. Ctrl-] disconnects.

    Standard input may be a pipe; the console then stays open until --duration is over or you press Ctrl-C.

    \b
    Examples:
      ostler vm console web-1
      echo uptime | ostler vm console web-1 --duration 5s
    """
    from ostler_control.cli.console import converse

    converse(app.client.vms, vm, force, duration)


@click.command("log")
@click.argument("vm", type=VM)
@click.option("-n", "--lines", type=click.IntRange(1, 1_000_000), help="Only the last lines.  [default: all]")
@click.option("--follow", is_flag=True, help="Go on with what the guest prints, until Ctrl-C.")
@click.option("--raw", is_flag=True, help="Print the bytes as they are, with colors and control characters.")
@pass_app
def log(app: App, vm: str, lines: int | None, follow: bool, raw: bool) -> None:
    """Prints what the guest printed on its serial console.

    The log keeps the last 256 KiB or more, also of a stopped VM. It begins anew when the VM moves to another host.

    \b
    Examples:
      ostler vm log web-1 --lines 50
      ostler vm log web-1 --follow
    """
    from ostler_control.cli.console_text import ConsoleText

    text = ConsoleText()
    request = pb.ReadConsoleLogRequest(vm=vm, lines=lines or 0, follow=follow)
    for output in app.client.vms.ReadConsoleLog(request):
        sys.stdout.buffer.write(output.data if raw else text.clean(output.data).encode())
        sys.stdout.buffer.flush()


@click.command("vnc")
@click.argument("vm", type=VM)
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Port on loopback.  [default: a free one]")
@click.option("--socket", "path", type=click.Path(path_type=Path), help="Listen on a Unix socket at this path instead.")
@click.option("--force", is_flag=True, help="Take the screen over from its present user.")
@pass_app
def vnc(app: App, vm: str, port: int, path: Path | None, force: bool) -> None:
    """Opens a local socket for a VNC viewer.

    The viewer shows a running VM's screen. Prints the socket's address. Viewers can connect one after the other until
    you press Ctrl-C, and only those of your user.

    \b
    Examples:
      ostler vm vnc web-1 --port 5901      # then: vncviewer 127.0.0.1::5901
      ostler vm vnc web-1 --socket ~/web-1.vnc
    """
    from ostler_control.cli import vnc

    found = app.client.vms.GetVm(pb.GetVmRequest(vm=vm))
    with vnc.listen(port, path) as listener:
        address = str(path) if path else "{}:{}".format(*listener.getsockname())
        click.echo(address)
        example = address if path else address.replace(":", "::")
        click.echo(f"Ctrl-C ends it. Open it in a viewer, for example: vncviewer {example}", err=True)
        vnc.serve(app, found.id, force, listener)


@click.command("send-key")
@click.argument("vm", type=VM)
@click.argument("keys")
@pass_app
def send_key(app: App, vm: str, keys: str) -> None:
    """Presses KEYS of a running VM's keyboard together.

    KEYS are names with "-" between them: a to z, 0 to 9, f1 to f12, ctrl, alt, altgr, shift, meta, enter, esc, tab,
    space, del and more (docs/console.md), by their place on a US keyboard.

    \b
    Examples:
      ostler vm send-key web-1 ctrl-alt-del
      ostler vm send-key web-1 enter
    """
    app.client.vms.SendKey(pb.SendKeyRequest(vm=vm, keys=keys))


@click.command("screenshot")
@click.argument("vm", type=VM)
@click.option(
    "-f",
    "--file",
    type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
    help="Output file.  [default: VM.png]",
)
@pass_app
def screenshot(app: App, vm: str, file: Path | None) -> None:
    """Saves a screenshot of a running VM. `-f -` writes it to standard output.

    \b
    Example:
      ostler vm screenshot web-1 -f screen.png
    """
    png = app.client.vms.Screenshot(pb.ScreenshotRequest(vm=vm)).png
    if str(file) == "-":
        sys.stdout.buffer.write(png)
        return
    target = file or Path(f"{vm}.png")
    target.write_bytes(png)
    click.echo(target)


COMMANDS = (console, log, vnc, send_key, screenshot)
