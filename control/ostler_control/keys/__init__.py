"""Passphrases of encrypted volumes: made, sealed, and opened only where they are sent."""

from ostler_control.keys.passphrases import Keyring
from ostler_control.keys.providers import FileProvider, KeyProvider, create_key_file, open_provider

__all__ = ["FileProvider", "KeyProvider", "Keyring", "create_key_file", "open_provider"]
