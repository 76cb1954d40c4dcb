"""Opens a SQL database the same way everywhere: SQLite in WAL mode, or PostgreSQL by URL."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.schema import CreateIndex, CreateTable

_SQLITE = "sqlite:///"
# Any number will do for PostgreSQL, as long as all of ours lock the same one.
_ALONE = {"sqlite": "BEGIN IMMEDIATE", "postgresql": "SELECT pg_advisory_xact_lock(4823517)"}


def open_database(url: str, tables: sa.MetaData) -> sa.Engine:
    """Return an engine for a SQLAlchemy URL with these tables in it; folders and tables are made on first use.

    Raises SQLAlchemyError or ImportError when the URL is wrong, its driver missing or the server away.
    """
    if (kind := sa.make_url(url).get_backend_name()) not in _ALONE:
        raise sa.exc.ArgumentError(f"{kind} is neither sqlite nor postgresql")
    if url.startswith(_SQLITE):
        Path(url.removeprefix(_SQLITE)).parent.mkdir(parents=True, exist_ok=True)
    engine = sa.create_engine(url, pool_pre_ping=True)
    if engine.dialect.name == "sqlite":
        sa.event.listen(engine, "connect", _prepare_sqlite)
    if engine.dialect.driver == "psycopg":
        sa.event.listen(engine, "connect", _prepare_postgresql)
    with engine.begin() as connection:
        # Several processes open a new database at once: whoever comes second finds the tables.
        if engine.dialect.name == "postgresql":
            connection.exec_driver_sql(_ALONE["postgresql"])
        for table in tables.sorted_tables:
            connection.execute(CreateTable(table, if_not_exists=True))
            for index in sorted(table.indexes, key=lambda index: str(index.name)):
                connection.execute(CreateIndex(index, if_not_exists=True))
    return engine


@contextmanager
def exclusive_transaction(engine: sa.Engine) -> Iterator[sa.Connection]:
    """Begin a transaction beside which no other of this kind runs.

    What it reads first nobody changes before it writes, and readers see numbered rows in the order of their numbers.
    """
    with engine.begin() as connection:
        connection.exec_driver_sql(_ALONE[engine.dialect.name])
        yield connection


def _prepare_sqlite(connection: Any, _record: object) -> None:
    """Let readers and one writer work side by side, and wait for a lock instead of failing."""
    cursor = connection.cursor()
    for pragma in ("busy_timeout=15000", "journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _prepare_postgresql(connection: Any, _record: object) -> None:
    """Leave out the NUL character, which PostgreSQL stores in no text, instead of losing the whole row."""
    from psycopg.types.string import StrDumper

    class WithoutNul(StrDumper):
        def dump(self, obj: str) -> Any:
            return super().dump(obj.replace("\0", ""))

    connection.adapters.register_dumper(str, WithoutNul)
