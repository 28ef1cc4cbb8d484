"""What a viewer sends: pictures that it asks for are no sign of a person, keys are."""

from __future__ import annotations

import struct

import pytest
from ostler_control.vms.rfb import ViewerInput

HANDSHAKE = b"RFB 003.008\n\x01\x01"
WATCHES = (
    struct.pack(">B3x4B3HBBB3x", 0, 32, 24, 0, 1, 255, 255, 255, 16, 8, 0),  # SetPixelFormat
    struct.pack(">BxH3i", 2, 3, 0, 7, -239),  # SetEncodings
    struct.pack(">BB4H", 3, 1, 0, 0, 640, 480),  # FramebufferUpdateRequest
    struct.pack(">BB4H", 150, 1, 0, 0, 640, 480),  # EnableContinuousUpdates
    struct.pack(">B3xIB5s", 248, 1, 5, b"fence"),
    struct.pack(">BxHHBxIHHHHI", 251, 640, 480, 1, 0, 0, 0, 640, 480, 0),  # SetDesktopSize
    struct.pack(">BxBB", 250, 1, 2),  # xvp
    struct.pack(">BBHBBI", 255, 1, 2, 3, 2, 44100),  # QEMU: audio format
    struct.pack(">BBH", 255, 1, 0),  # QEMU: audio on
)
ACTS = (
    struct.pack(">BBxxI", 4, 1, ord("a")),  # KeyEvent
    struct.pack(">BBHH", 5, 0, 3, 4),  # PointerEvent
    struct.pack(">B3xI", 6, 4) + b"text",  # ClientCutText
    struct.pack(">B3xi", 6, -9000) + bytes(9000),  # its extended form
    struct.pack(">BBHII", 255, 0, 1, ord("a"), 30),  # QEMU: key
)


def started(handshake: bytes = HANDSHAKE) -> ViewerInput:
    viewer = ViewerInput()
    assert not viewer.feed(handshake)
    return viewer


@pytest.mark.parametrize("act", ACTS)
def test_acts_among_what_a_viewer_does_by_itself(act: bytes) -> None:
    viewer = started()
    for watch in WATCHES:
        assert not viewer.feed(watch)
        assert viewer.feed(act)
        assert not viewer.feed(watch)


def test_messages_may_come_in_pieces_and_many_at_once() -> None:
    stream = b"".join(watch + act for watch in WATCHES for act in ACTS)
    assert started().feed(stream)
    viewer = ViewerInput()
    acts = sum(viewer.feed(bytes((byte,))) for byte in HANDSHAKE + stream)
    assert acts == len(WATCHES) * len(ACTS)


def test_version_3_3_has_no_choice_of_security() -> None:
    viewer = started(b"RFB 003.003\n\x01")
    assert viewer.feed(ACTS[0])
    assert not viewer.feed(WATCHES[2])


def test_nothing_counts_after_an_unknown_message() -> None:
    viewer = started()
    assert not viewer.feed(b"\x63" + ACTS[0])
    assert not viewer.feed(ACTS[0])


def test_a_long_text_is_not_kept() -> None:
    viewer = started()
    assert viewer.feed(struct.pack(">B3xI", 6, 1 << 30))
    for _ in range(64):
        assert not viewer.feed(bytes(1 << 20))
    assert len(viewer._begun) <= 4096
