"""One JSON object a line on standard error, for people with jq and for collectors."""

from __future__ import annotations

import json
import logging
import re
import secrets
import sys
import time
from typing import Any

log = logging.getLogger("anycost.server")


class JsonLines(logging.Formatter):
    """time (UTC), level, event, and what was given as ``extra={"data": {...}}``."""

    def format(self, record: logging.LogRecord) -> str:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {
            "time": f"{stamp}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "event": record.getMessage(),
        }
        line.update(getattr(record, "data", {}))
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def set_up(level: int = logging.INFO) -> None:
    """Send this server's and uvicorn's records to standard error as JSON lines."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    for name in ("anycost", "uvicorn", "asyncio"):
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.setLevel(level if name == "anycost" else logging.WARNING)
        logger.propagate = False


def event(name: str, *, level: int = logging.INFO, **data: Any) -> None:
    log.log(level, name, extra={"data": data})


def request_id(sent: str | None) -> str:
    """The client's own, where it is plain and short, else a new one."""
    if sent is not None and re.fullmatch(r"[A-Za-z0-9._-]{1,64}", sent):
        return sent
    return secrets.token_hex(8)
