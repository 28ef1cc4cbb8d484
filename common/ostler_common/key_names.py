"""Keys of a PC keyboard by name, and combinations of them: "ctrl-alt-del".

Codes are those of Linux (include/uapi/linux/input-event-codes.h), which name keys by their place on a US keyboard.
"""

from __future__ import annotations

from collections.abc import Mapping

MAX_KEYS = 5


def _row(first_code: int, names: str) -> dict[str, int]:
    return {name: first_code + position for position, name in enumerate(names.split())}


KEY_CODES: Mapping[str, int] = {
    "esc": 1,
    **_row(2, "1 2 3 4 5 6 7 8 9 0 minus equal backspace tab"),
    **_row(16, "q w e r t y u i o p leftbracket rightbracket enter ctrl"),
    **_row(30, "a s d f g h j k l semicolon apostrophe grave shift backslash"),
    **_row(44, "z x c v b n m comma dot slash rightshift"),
    **_row(56, "alt space capslock f1 f2 f3 f4 f5 f6 f7 f8 f9 f10 numlock scrolllock"),
    **_row(87, "f11 f12"),
    "rightctrl": 97,
    **_row(99, "sysrq altgr"),
    **_row(102, "home up pageup left right end down pagedown insert del"),
    "pause": 119,
    **_row(125, "meta rightmeta menu"),
}


def parse_keys(text: str) -> tuple[int, ...]:
    """The codes of keys that are pressed together; between names stands "-".

    Raises ValueError: an unknown name, a key twice, no key, or more than MAX_KEYS.
    """
    names = text.lower().split("-")
    if unknown := [name for name in names if name not in KEY_CODES]:
        raise ValueError(
            f"has no key {unknown[0][:20]!r}; keys are a to z, 0 to 9, f1 to f12, ctrl, alt, altgr, shift, meta, "
            "enter, esc, tab, space, del and others, as in ctrl-alt-del"
        )
    if len(names) > MAX_KEYS:
        raise ValueError(f"has more than {MAX_KEYS} keys")
    if len(set(names)) < len(names):
        raise ValueError("has a key twice")
    return tuple(KEY_CODES[name] for name in names)
