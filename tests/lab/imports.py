"""How long an import takes in the lab."""

from __future__ import annotations

# The conversion alone takes two minutes without KVM, on a quiet machine.
IMPORT_S = 700
