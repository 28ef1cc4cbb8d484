"""Commands for a TPM 2.0, as a guest's shell sends them to /dev/tpm0: the storage of values in the TPM itself."""

from __future__ import annotations

import struct

_OWNER, _INDEX = 0x40000001, 0x01500001
_PASSWORD = struct.pack(">IIHBH", 9, 0x40000009, 0, 0, 0)  # a session with an empty password
_DEFINE, _WRITE, _READ = 0x12A, 0x137, 0x14E
_SHA256 = 0x000B
_READ_AND_WRITE = 0x02060006  # by the owner and by the value's password, without the lock-out of a dictionary attack
SIZE = 8


def _command(code: int, body: bytes) -> bytes:
    return struct.pack(">HII", 0x8002, 10 + len(body), code) + body


def define() -> bytes:
    """Makes room for a value."""
    public = struct.pack(">IHIHH", _INDEX, _SHA256, _READ_AND_WRITE, 0, SIZE)
    return _command(
        _DEFINE, struct.pack(">I", _OWNER) + _PASSWORD + struct.pack(">H", 0) + struct.pack(">H", len(public)) + public
    )


def write(value: bytes) -> bytes:
    """Stores a value of `SIZE` bytes."""
    return _command(
        _WRITE, struct.pack(">II", _OWNER, _INDEX) + _PASSWORD + struct.pack(">H", SIZE) + value + struct.pack(">H", 0)
    )


def read() -> bytes:
    """Reads the value; the answer ends with it and with an empty session."""
    return _command(_READ, struct.pack(">II", _OWNER, _INDEX) + _PASSWORD + struct.pack(">HH", SIZE, 0))


def shell(command: bytes) -> str:
    """A line for the guest's shell: sends a command, and prints the answer in hex after "TPM="."""
    octal = "".join(f"\\{byte:03o}" for byte in command)
    hexdump = "dd bs=4096 count=1 2>/dev/null <&3 | hexdump -v -e '1/1 \"%02x\"'"
    return f"exec 3<>/dev/tpm0; printf '{octal}' >&3; echo \"TPM=$({hexdump})\"; exec 3>&-"
