"""Logs: one line per event on stderr, key=value for journald, or JSON."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from typing import Any

import structlog

# sd-daemon(3): a line's priority in front of it, understood when stderr is the journal.
_PRIORITY = {"critical": "<2>", "error": "<3>", "warning": "<4>", "info": "<6>", "debug": "<7>"}


def setup(level: str = "info", json: bool = False) -> None:
    """Sends structlog's and the standard library's log to stderr from `level` up ("debug", "info", "warning", "error").

    Raises ValueError for another word.
    """
    number = logging.getLevelNamesMapping().get(level.upper())
    if number is None:
        raise ValueError(f"{level!r} is not a log level (debug, info, warning, error)")
    in_journal = "JOURNAL_STREAM" in os.environ
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.format_exc_info,
    ]
    if not in_journal:  # the journal has its own clock
        shared.append(structlog.processors.TimeStamper(fmt="iso", utc=True))
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    render = structlog.processors.JSONRenderer(default=str) if json else _key_values
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                _with_priority(render) if in_journal else render,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(number)


def _key_values(logger: Any, name: str, event: Any) -> str:
    """ "TIME LEVEL message key=value ... [logger]", a traceback on the lines below."""
    event = dict(event)
    event.pop("_record", None)
    traceback = event.pop("exception", None)
    head = [str(event.pop(key)) for key in ("timestamp", "level", "event") if key in event]
    origin = event.pop("logger", None)
    pairs = [f"{key}={_quoted(value)}" for key, value in event.items()]
    line = " ".join([*head, *pairs, *([f"[{origin}]"] if origin else [])]).replace("\n", "\\n")
    return f"{line}\n{traceback}" if traceback else line


def _quoted(value: object) -> str:
    text = str(value)
    return repr(text) if not text or any(character in text for character in ' "=\n') else text


def _with_priority(render: Callable[..., Any]) -> Callable[..., str]:
    def prefixed(logger: Any, name: str, event: Any) -> str:
        prefix = _PRIORITY.get(event.get("level", "info"), "<6>")
        return "\n".join(prefix + line for line in str(render(logger, name, event)).split("\n"))

    return prefixed
