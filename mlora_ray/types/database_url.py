"""Which control databases there are, and how their URLs are shown."""

from __future__ import annotations

import re

ALLOWED = "sqlite:///PATH or postgresql+psycopg://USER:PASSWORD@HOST:PORT/DATABASE"


DRIVERS = ("sqlite", "sqlite+pysqlite", "postgresql", "postgresql+psycopg")


def shown(url: str) -> str:
    """`url` without its password, whether or not it can be parsed."""
    hidden = re.sub(r"(://[^:/@]*):.*@", r"\1:***@", url)
    return re.sub(r"(?i)([?&][a-z]*password=)[^&]*", r"\1***", hidden)
