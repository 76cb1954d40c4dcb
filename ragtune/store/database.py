"""Opens SQL databases: SQLite in WAL mode, or PostgreSQL by URL."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.schema import CreateColumn, CreateIndex, CreateTable

from ragtune.errors import RagTuneError, no_permission

_SQLITE = "sqlite:///"
# The number of PostgreSQL's advisory lock is arbitrary; all our writers have to use the same one.
_ALONE = {"sqlite": "BEGIN IMMEDIATE", "postgresql": "SELECT pg_advisory_xact_lock(4823517)"}


def open_database(url: str, tables: sa.MetaData, name: str, error_type: type[RagTuneError]) -> sa.Engine:
    """Return an engine for a SQLAlchemy URL. Create the tables, and the folder of a SQLite file, if they are missing.

    A column that a table of an earlier version lacks is added; it needs a `server_default`.

    Args:
        url: `Settings.feedback_url`, in which all our logs are.
        tables: the tables of one log.
        name: the log, as an error names it.
        error_type: raised if the URL is invalid, a driver is not installed or the server does not answer.

    Raises:
        ResourceError: this user may not use the file.
    """
    try:
        return _open(url, tables)
    except PermissionError as error:
        raise no_permission(error) from error
    except (sa.exc.SQLAlchemyError, ImportError, OSError) as error:
        raise error_type(
            f"The {name} cannot be opened: {error}",
            expected="a SQLAlchemy URL of SQLite or PostgreSQL",
            fix="correct feedback.url (RAGTUNE_FEEDBACK__URL), or leave it empty for SQLite in the home; "
            "PostgreSQL also needs the extra 'postgresql'",
        ) from error


def _open(url: str, tables: sa.MetaData) -> sa.Engine:
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
        # Several processes may open a new database at the same time. The lock makes the second one wait for the tables.
        if engine.dialect.name == "postgresql":
            connection.exec_driver_sql(_ALONE["postgresql"])
        for table in tables.sorted_tables:
            connection.execute(CreateTable(table, if_not_exists=True))
            for index in sorted(table.indexes, key=lambda index: str(index.name)):
                connection.execute(CreateIndex(index, if_not_exists=True))
    if _missing_columns(engine, tables):
        with exclusive_transaction(engine) as connection:
            for column in _missing_columns(connection, tables):  # again, because another process may have added them
                definition = CreateColumn(column).compile(dialect=engine.dialect)
                name = engine.dialect.identifier_preparer.format_table(column.table)
                connection.exec_driver_sql(f"ALTER TABLE {name} ADD COLUMN {definition}")
    return engine


def _missing_columns(bind: sa.Engine | sa.Connection, tables: sa.MetaData) -> list[sa.Column[Any]]:
    """Return the columns that the tables of the database lack."""
    stored = sa.inspect(bind)
    return [
        column
        for table in tables.sorted_tables
        for column in table.columns
        if column.name not in {existing["name"] for existing in stored.get_columns(table.name)}
    ]


@contextmanager
def exclusive_transaction(engine: sa.Engine) -> Iterator[sa.Connection]:
    """Run an exclusive write transaction: no other one runs at the same time.

    Nobody changes what it reads before it writes. Readers see numbered rows appear in the order of their numbers.
    """
    with engine.begin() as connection:
        connection.exec_driver_sql(_ALONE[engine.dialect.name])
        yield connection


def _prepare_sqlite(connection: Any, _record: object) -> None:
    """Let readers work at the same time as one writer, and wait for a lock instead of failing."""
    cursor = connection.cursor()
    for pragma in ("busy_timeout=15000", "journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _prepare_postgresql(connection: Any, _record: object) -> None:
    """Remove NUL characters, which PostgreSQL refuses in text, instead of losing the whole row."""
    from psycopg.types.string import StrDumper

    class WithoutNul(StrDumper):
        def dump(self, obj: str) -> Any:
            return super().dump(obj.replace("\0", ""))

    connection.adapters.register_dumper(str, WithoutNul)
