"""Has pytest rewrite the helpers, so that what they assert explains itself when it fails, as what tests assert does.

To be imported before them.
"""

from __future__ import annotations

from pathlib import Path

import pytest

_HERE = Path(__file__)
pytest.register_assert_rewrite(*(f"tests.{entry.stem}" for entry in _HERE.parent.iterdir() if entry != _HERE))
