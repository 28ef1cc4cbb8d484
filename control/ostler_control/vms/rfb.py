"""What a viewer sends to a screen: the client's half of RFB (RFC 6143), read to see when a person acts."""

from __future__ import annotations

from collections.abc import Generator

# The bytes of a message after its type, where they are fixed (RFC 6143, 7.5, and extensions that QEMU knows).
_FIXED = {
    0: 19,  # SetPixelFormat
    3: 9,  # FramebufferUpdateRequest
    4: 7,  # KeyEvent
    5: 5,  # PointerEvent
    150: 9,  # EnableContinuousUpdates
    250: 3,  # xvp
}
_SET_ENCODINGS, _KEY, _POINTER, _CUT_TEXT, _FENCE, _SET_DESKTOP_SIZE, _QEMU = 2, 4, 5, 6, 248, 251, 255
_QEMU_KEY, _QEMU_AUDIO, _SET_AUDIO_FORMAT = 0, 1, 2
_PIECE_BYTES = 4096


class ViewerInput:
    """Follows a viewer's bytes, of which it keeps at most _PIECE_BYTES."""

    def __init__(self) -> None:
        self._messages = self._read()
        self._wanted = next(self._messages)
        self._begun = b""
        self._acted = False

    def feed(self, data: bytes) -> bool:
        """Whether a person acts in these bytes: presses a key, moves the mouse, pastes a text.

        After a message of an unknown type nothing counts any more: QEMU ends such a connection.
        """
        self._acted = False
        while data and self._wanted:
            missing = self._wanted - len(self._begun)
            self._begun += data[:missing]
            data = data[missing:]
            if len(self._begun) == self._wanted:
                piece, self._begun = self._begun, b""
                self._wanted = _after(self._messages, piece)
        return self._acted

    def _read(self) -> Generator[int, bytes, None]:
        """Yields how many bytes it needs to go on."""
        version = yield 12
        yield 1 if version.startswith(b"RFB 003.003") else 2  # the security type, from 3.7 on; ClientInit
        while True:
            kind = (yield 1)[0]
            is_person = kind in (_KEY, _POINTER, _CUT_TEXT)
            if kind in _FIXED:
                rest = _FIXED[kind]
            elif kind == _SET_ENCODINGS:
                rest = 4 * _number((yield 3)[1:])
            elif kind == _CUT_TEXT:
                # Negative in the extended clipboard's messages.
                rest = abs(int.from_bytes((yield 7)[3:], signed=True))
            elif kind == _FENCE:
                rest = (yield 8)[7]
            elif kind == _SET_DESKTOP_SIZE:
                rest = 16 * (yield 7)[5]
            elif kind == _QEMU:
                extension = (yield 1)[0]
                is_person = extension == _QEMU_KEY
                if extension == _QEMU_KEY:
                    rest = 10
                elif extension == _QEMU_AUDIO:
                    rest = 6 if _number((yield 2)) == _SET_AUDIO_FORMAT else 0
                else:
                    return
            else:
                return
            self._acted |= is_person
            while rest:
                piece = min(rest, _PIECE_BYTES)
                yield piece
                rest -= piece


def _after(messages: Generator[int, bytes, None], piece: bytes) -> int:
    """How many bytes are needed after these; 0 after the end."""
    try:
        return messages.send(piece)
    except StopIteration:
        return 0


def _number(data: bytes) -> int:
    return int.from_bytes(data)
