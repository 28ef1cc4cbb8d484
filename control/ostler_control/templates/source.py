"""What agents are told of templates at a URL."""

from __future__ import annotations

from ostler.agent.v1 import volume_pb2 as agent_pb2

from ostler_control import settings
from ostler_control.database import session


def direct_source(url: str, ca_pem: str) -> agent_pb2.DirectSource:
    """How a host downloads a template, with the current settings."""
    with session():
        return agent_pb2.DirectSource(
            url=url,
            ca_pem=ca_pem.encode(),
            proxy=settings.templates.PROXY.get(),
            allow_private=settings.templates.ALLOW_PRIVATE.get(),
        )
