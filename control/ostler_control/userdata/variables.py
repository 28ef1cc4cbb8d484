"""Variables: names that user data declares, with values given for each VM.

The guest finds them in its meta-data: a jinja template reads `{{ ds.meta_data.NAME }}`, a script asks
`cloud-init query ds.meta_data.NAME`. The user data itself is never rewritten.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from ostler_common.errors import InvalidArgumentError, bad_field

MAX_VARIABLES = 50
MAX_VALUE_BYTES = 4096
_NAME = re.compile(r"[a-z_][a-z0-9_]{0,62}", re.ASCII)
# What the seed itself writes, in cloud-init's spelling for templates.
RESERVED = frozenset({"instance_id", "local_hostname", "hostname", "public_keys", "network_interfaces", "dsmode"})


def check_declared(names: Iterable[str]) -> tuple[str, ...]:
    """The names in order, each once; raises InvalidArgumentError INVALID_VARIABLE."""
    declared = tuple(dict.fromkeys(names))
    if len(declared) > MAX_VARIABLES:
        raise bad_field("variables", f"user data declares at most {MAX_VARIABLES} variables", "INVALID_VARIABLE")
    for name in declared:
        if not _NAME.fullmatch(name):
            raise bad_field(
                "variables",
                "a name is 1 to 63 of [a-z0-9_] and does not begin with a digit",
                "INVALID_VARIABLE",
            )
        if name in RESERVED:
            raise bad_field("variables", f"{name} is a name that cloud-init uses itself", "INVALID_VARIABLE")
    return declared


def check_values(declared: Iterable[str], values: Mapping[str, str]) -> dict[str, str]:
    """The values in the order of their declaration.

    Raises InvalidArgumentError UNDECLARED_VARIABLE, MISSING_VARIABLE or INVALID_VARIABLE; none shows a value.
    """
    names = tuple(dict.fromkeys(declared))
    unknown = sorted(set(values) - set(names))
    if unknown:
        known = f"it declares {', '.join(names)}" if names else "it declares none"
        raise _error("UNDECLARED_VARIABLE", f"the user data declares no variable {', '.join(unknown)[:200]}; {known}")
    missing = [name for name in names if name not in values]
    if missing:
        raise _error("MISSING_VARIABLE", f"the user data needs a value for {', '.join(missing)}; give NAME=VALUE")
    for name in names:
        if len(values[name].encode()) > MAX_VALUE_BYTES or "\0" in values[name]:
            raise _error("INVALID_VARIABLE", f"the value of {name} has more than {MAX_VALUE_BYTES} bytes or a NUL")
    return {name: values[name] for name in names}


def _error(reason: str, message: str) -> InvalidArgumentError:
    return InvalidArgumentError(message, reason)
