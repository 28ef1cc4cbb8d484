"""The profile: where the control plane is and who one is to it."""

from __future__ import annotations

import os
import tomllib
from dataclasses import dataclass
from pathlib import Path

import click

from ostler_control.cli.exits import Exit

VARIABLE = "OSTLER_PROFILE"


class ProfileError(click.ClickException):
    """The profile is absent or says nothing usable."""

    exit_code = Exit.USAGE


@dataclass(frozen=True)
class Profile:
    """A profile as read: the paths are absolute."""

    path: Path
    control_address: str
    ca: Path
    certificate: Path
    key: Path


def default_path() -> Path:
    """~/.config/ostler/profile.toml."""
    config = os.environ.get("XDG_CONFIG_HOME")
    return (Path(config) if config else Path.home() / ".config") / "ostler" / "profile.toml"


def load(path: Path) -> Profile:
    """Reads a profile. Raises ProfileError with what to do when it is absent, wrong or names absent files."""
    try:
        values = tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise ProfileError(
            f"there is no profile at {path}.\n"
            "  `ostler-control init` writes the first one, `ostler user create NAME` those of others.\n"
            f"  Then pass --profile FILE, set {VARIABLE}, or put it there."
        ) from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as e:
        raise ProfileError(f"cannot read the profile {path}: {e}") from None
    texts: dict[str, str] = {}
    for name in ("control_address", "ca", "certificate", "key"):
        value = values.get(name)
        if not isinstance(value, str) or not value:
            raise ProfileError(f"the profile {path} lacks `{name}`")
        texts[name] = value
    # An absolute path stays as it is.
    ca, certificate, key = (path.absolute().parent / texts[name] for name in ("ca", "certificate", "key"))
    for name, file in (("ca", ca), ("certificate", certificate), ("key", key)):
        if not os.access(file, os.R_OK):
            raise ProfileError(f"the profile {path} names {file} as `{name}`, which cannot be read")
    return Profile(path, texts["control_address"], ca, certificate, key)


def text(control_address: str, ca: str, certificate: str, key: str) -> str:
    """What a profile's file holds."""
    values = {"control_address": control_address, "ca": ca, "certificate": certificate, "key": key}
    return "".join(f'{name} = "{value}"\n' for name, value in values.items())
