"""`ostler web`."""

from __future__ import annotations

import click
from ostler_common.errors import FailedPreconditionError

from ostler_control.cli.app import App, pass_app


@click.command()
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Port on loopback.  [default: a free one]")
@pass_app
def command(app: App, port: int) -> None:
    """Web console on loopback, for your browser.

    It acts with your profile's certificate until Ctrl-C ends it. Each link works once; when one was used, the next is
    printed.

    \b
    Example:
      ostler web --port 8480
    """
    _ = app.profile  # read first: its absence is told before anything is served
    try:
        from ostler_control.web import server
    except ModuleNotFoundError as error:
        message = f"the console needs the Python package {error.name}: pip install 'ostler[web]'"
        raise FailedPreconditionError(message, "WEB_NOT_INSTALLED") from None

    try:
        listener = server.bind(port)
    except OSError as error:
        raise FailedPreconditionError(
            f"cannot listen on {server.LOOPBACK}:{port}: {error.strerror}", "PORT_UNAVAILABLE", {"port": str(port)}
        ) from None
    server.serve(app, listener, click.echo)
