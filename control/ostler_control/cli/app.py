"""What every command gets: the profile, the services, and ways to print what they answer."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import click
from ostler.client.paging import pages
from ostler.client.profile import Profile, default_path, load

if TYPE_CHECKING:
    from ostler.client.client import Client

__all__ = ["App", "pages", "pass_app"]


class App:
    """One run of `ostler`. Nothing is read and nobody is called until a command asks for it."""

    def __init__(self, profile: Path | None) -> None:
        self.profile_path = profile or default_path()

    @cached_property
    def profile(self) -> Profile:
        return load(self.profile_path)

    @cached_property
    def client(self) -> Client:
        profile = self.profile  # read first: its absence is told without the time that importing grpc takes
        from ostler.client.client import Client
        from ostler_common import tracing

        if context := click.get_current_context(silent=True):
            tracing.rename(context.command_path)
        return Client(profile)


pass_app = click.make_pass_decorator(App)
