"""Opens a SQL database the same way everywhere: SQLite in WAL mode, or PostgreSQL by URL."""

from pathlib import Path
from typing import Any

import sqlalchemy as sa

_SQLITE = "sqlite:///"


def open_database(url: str, tables: sa.MetaData) -> sa.Engine:
    """Return an engine for a SQLAlchemy URL with these tables in it; folders and tables are made on first use.

    Raises SQLAlchemyError or ImportError when the URL is wrong, its driver missing or the server away.
    """
    if url.startswith(_SQLITE):
        Path(url.removeprefix(_SQLITE)).parent.mkdir(parents=True, exist_ok=True)
    engine = sa.create_engine(url, pool_pre_ping=True)
    if engine.dialect.name == "sqlite":
        sa.event.listen(engine, "connect", _prepare_sqlite)
    tables.create_all(engine)
    return engine


def _prepare_sqlite(connection: Any, _record: object) -> None:
    """Let readers and one writer work side by side, and wait for a lock instead of failing."""
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "busy_timeout=15000", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()
