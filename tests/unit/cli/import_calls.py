"""What a command asked the control plane for."""

from __future__ import annotations

from typing import TypeVar

from google.protobuf.message import Message

from tests.fakes.control import Control

M = TypeVar("M", bound=Message)


def asked(control: Control, kind: type[M]) -> M:
    """The last request of a kind."""
    return [call for call in control.asked if isinstance(call, kind)][-1]
