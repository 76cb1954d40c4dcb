"""Stores studies, who rates which item, ratings and adjudications in a SQL database, next to the reviews.

Ratings and adjudications are only ever added; the newest of a task counts. SQLite and PostgreSQL both work, with
several annotators at once.
"""

import json
import uuid
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import sqlalchemy as sa

from ragtune.errors import DatasetError
from ragtune.evaluation.studies.study import (
    MAX_NAME_CHARACTERS,
    Adjudication,
    Rating,
    ShownAnswer,
    Study,
    StudyItem,
    Task,
    annotator_name,
    new_rating,
    tasks_of,
)
from ragtune.store.database import exclusive_transaction, open_database
from ragtune.store.timestamps import now

_tables = sa.MetaData()
_studies = sa.Table(
    "studies",
    _tables,
    sa.Column("name", sa.String(MAX_NAME_CHARACTERS), primary_key=True),
    sa.Column("created_at", sa.String(40), nullable=False),
    sa.Column("mode", sa.String(16), nullable=False),
    sa.Column("guideline", sa.Text, nullable=False),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("seed", sa.Integer, nullable=False),
)
_items = sa.Table(
    "study_items",
    _tables,
    sa.Column("study", sa.String(MAX_NAME_CHARACTERS), sa.ForeignKey("studies.name"), primary_key=True),
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("position", sa.Integer, nullable=False),
    sa.Column("question", sa.Text, nullable=False),
    sa.Column("expected", sa.Text, nullable=False),
    sa.Column("answers", sa.Text, nullable=False),
)
_assigned = sa.Table(
    "study_tasks",
    _tables,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("study", sa.String(MAX_NAME_CHARACTERS), nullable=False, index=True),
    sa.Column("item_id", sa.String(32), nullable=False),
    sa.Column("annotator", sa.String(MAX_NAME_CHARACTERS), nullable=False),
    sa.Column("position", sa.Integer, nullable=False),
    sa.Column("swapped", sa.Boolean, nullable=False),
    sa.Column("repeat", sa.Boolean, nullable=False),
    sa.Column("created_at", sa.String(40), nullable=False),
)
_ratings = sa.Table(
    "study_ratings",
    _tables,
    sa.Column("sequence", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("id", sa.String(64), unique=True, nullable=False),
    sa.Column("created_at", sa.String(40), nullable=False),
    sa.Column("task_id", sa.String(32), sa.ForeignKey("study_tasks.id"), nullable=False, index=True),
    sa.Column("annotator", sa.String(MAX_NAME_CHARACTERS), nullable=False),
    sa.Column("choices", sa.Text, nullable=False),
    sa.Column("comment", sa.Text, nullable=False),
    sa.Column("seconds", sa.Float, nullable=False),
    sqlite_autoincrement=True,
)
_adjudications = sa.Table(
    "study_adjudications",
    _tables,
    sa.Column("sequence", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("study", sa.String(MAX_NAME_CHARACTERS), nullable=False, index=True),
    sa.Column("created_at", sa.String(40), nullable=False),
    sa.Column("item_id", sa.String(32), nullable=False),
    sa.Column("question", sa.String(32), nullable=False),
    sa.Column("choice", sa.String(32), nullable=False),
    sa.Column("adjudicator", sa.String(MAX_NAME_CHARACTERS), nullable=False),
    sa.Column("comment", sa.Text, nullable=False),
    sqlite_autoincrement=True,
)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an annotator is: tasks with a rating, tasks put off, all tasks, and the mean seconds of a rating."""

    annotator: str
    rated: int
    skipped: int
    tasks: int
    seconds: float


class StudyStore:
    """Studies at a SQLAlchemy URL; safe with several annotators at once."""

    def __init__(self, url: str) -> None:
        self._engine = open_database(url, _tables, "store of studies", DatasetError)

    def create(self, study: Study, items: Sequence[StudyItem]) -> Study:
        """Store a study with its items and return it; raise DatasetError if the name is taken or there is no item."""
        if not items:
            raise DatasetError(f"The study '{study.name}' has no item.", "at least one answer to rate")
        name = annotator_name(study.name)
        study = replace(study, name=name, created_at=now())
        with exclusive_transaction(self._engine) as connection:
            if connection.execute(sa.select(_studies.c.name).where(_studies.c.name == name)).first():
                raise DatasetError(f"There is a study '{name}' already.", "a new name")
            connection.execute(_studies.insert().values(**asdict(study)))
            rows = [
                {**asdict(item), "study": name, "position": position, "answers": json.dumps(asdict(item)["answers"])}
                for position, item in enumerate({item.id: item for item in items}.values())
            ]
            connection.execute(_items.insert(), rows)
        return study

    def studies(self) -> list[Study]:
        """Return all studies, the oldest first."""
        with self._engine.connect() as connection:
            rows = connection.execute(sa.select(_studies).order_by(_studies.c.created_at, _studies.c.name)).mappings()
            return [Study(**row) for row in rows]

    def study(self, name: str) -> Study:
        """Return a study; raise DatasetError with the names of the others if there is none."""
        studies = {study.name: study for study in self.studies()}
        if name not in studies:
            raise DatasetError(
                f"There is no study '{name}'.",
                f"one of {', '.join(studies) or '(none)'}",
                "make one with `ragtune evaluate create`",
            )
        return studies[name]

    def items(self, name: str) -> dict[str, StudyItem]:
        """Return the items of a study by id, in their order."""
        query = sa.select(_items).where(_items.c.study == name).order_by(_items.c.position)
        with self._engine.connect() as connection:
            return {row["id"]: _item(row) for row in connection.execute(query).mappings()}

    def assign(self, name: str, annotators: Sequence[str], per_item: int) -> dict[str, int]:
        """Give every item `per_item` annotators, the same work to each; return {annotator: new items}.

        Items keep the annotators that they have. Raises DatasetError if there are fewer annotators than `per_item`.
        """
        study, items = self.study(name), self.items(name)
        names = list(dict.fromkeys(annotator_name(annotator) for annotator in annotators))
        if not 1 <= per_item <= len(names):
            raise DatasetError(
                f"There are {len(names)} annotators, which does not allow {per_item} per item.",
                "at least 1 per item, and at most as many as there are annotators",
            )
        new: dict[str, list[StudyItem]] = {annotator: [] for annotator in names}
        with exclusive_transaction(self._engine) as connection:
            tasks = _select_tasks(connection, name)
            assigned: dict[str, set[str]] = defaultdict(set)
            for task in tasks:
                assigned[task.item_id].add(task.annotator)
            load = {annotator: sum(annotator in of_item for of_item in assigned.values()) for annotator in names}
            for item in items.values():
                have = assigned[item.id]
                while len(have) < per_item and not have.issuperset(names):
                    annotator = min((a for a in names if a not in have), key=lambda a: (load[a], names.index(a)))
                    have.add(annotator)
                    load[annotator] += 1
                    new[annotator].append(item)
            for annotator, of_annotator in new.items():
                after = 1 + max((task.position for task in tasks if task.annotator == annotator), default=-1)
                rows = [asdict(task) for task in tasks_of(study, annotator, of_annotator, after)]
                if rows:
                    connection.execute(_assigned.insert(), [{**row, "created_at": now()} for row in rows])
        return {annotator: len(of_annotator) for annotator, of_annotator in new.items()}

    def tasks(self, name: str, annotator: str = "") -> list[Task]:
        """Return the tasks of a study, or of one annotator in it, in the order of each list."""
        with self._engine.connect() as connection:
            return [task for task in _select_tasks(connection, name) if not annotator or task.annotator == annotator]

    def open_tasks(self, name: str, annotator: str) -> list[Task]:
        """Return what an annotator still has to rate; tasks that were skipped come last, the longest ago first."""
        newest = self.newest_ratings(name)
        tasks = self.tasks(name, annotator)
        untouched = [task for task in tasks if task.id not in newest]
        skipped = [task for task in tasks if task.id in newest and newest[task.id].skipped]
        return [*untouched, *sorted(skipped, key=lambda task: newest[task.id].sequence)]

    def task(self, task_id: str) -> Task:
        """Return a task; raise DatasetError if there is none with this id."""
        with self._engine.connect() as connection:
            row = connection.execute(sa.select(_assigned).where(_assigned.c.id == task_id)).mappings().first()
        if row is None:
            raise DatasetError(f"There is no task '{task_id}'.", "the id of one of your tasks")
        return _task(row)

    def rate(
        self, task_id: str, annotator: str, choices: Mapping[str, str], comment: str = "", seconds: float = 0.0
    ) -> Rating:
        """Store a rating, or a skip if there are no choices; raise DatasetError for what `new_rating` refuses.

        A rating that equals the newest one of its task is not stored again: a client may send it twice.
        """
        task = self.task(task_id)
        return self.add([new_rating(self.study(task.study), task, annotator, choices, comment, seconds)])[0]

    def add(self, ratings: Sequence[Rating]) -> list[Rating]:
        """Store checked ratings, all or none, and return them with id, time and sequence number."""
        stored = []
        with exclusive_transaction(self._engine) as connection:
            for rating in ratings:
                of_task = sa.select(_ratings).where(_ratings.c.task_id == rating.task_id)
                newest = connection.execute(of_task.order_by(_ratings.c.sequence.desc()).limit(1)).mappings().first()
                if newest is not None and _says_the_same(_rating(newest), rating):
                    stored.append(_rating(newest))
                    continue
                rating = replace(rating, id=f"sr-{uuid.uuid4().hex}", created_at=now())
                row = {key: value for key, value in asdict(rating).items() if key != "sequence"}
                inserted = connection.execute(
                    _ratings.insert().values(**{**row, "choices": json.dumps(row["choices"])})
                )
                stored.append(replace(rating, sequence=int(inserted.inserted_primary_key[0])))
        return stored

    def newest_ratings(self, name: str) -> dict[str, Rating]:
        """Return {task id: its newest rating} of a study; a skip counts as the newest one, too."""
        query = (
            sa.select(_ratings)
            .join(_assigned, _assigned.c.id == _ratings.c.task_id)
            .where(_assigned.c.study == name)
            .order_by(_ratings.c.sequence)
        )
        with self._engine.connect() as connection:
            return {row["task_id"]: _rating(row) for row in connection.execute(query).mappings()}

    def state(self, name: str) -> tuple[int, int, int]:
        """Return what changes whenever the results of a study may change: its tasks, ratings and adjudications."""
        of_study = _assigned.c.study == name
        rated = sa.select(sa.func.max(_ratings.c.sequence)).join(_assigned, _assigned.c.id == _ratings.c.task_id)
        queries = (
            sa.select(sa.func.count()).select_from(_assigned).where(of_study),
            rated.where(of_study),
            sa.select(sa.func.max(_adjudications.c.sequence)).where(_adjudications.c.study == name),
        )
        with self._engine.connect() as connection:
            tasks, newest_rating, newest_settled = (connection.execute(query).scalar_one() for query in queries)
        return int(tasks), int(newest_rating or 0), int(newest_settled or 0)

    def adjudicate(
        self, name: str, item_id: str, question: str, choice: str, adjudicator: str, comment: str = ""
    ) -> Adjudication:
        """Store the final choice for a question about an item; raise DatasetError if one of the three is unknown."""
        study, items = self.study(name), self.items(name)
        allowed = {"item": list(items), "question": study.questions, "choice": study.categories}
        for kind, value in (("item", item_id), ("question", question), ("choice", choice)):
            if value not in allowed[kind]:
                raise DatasetError(f"There is no {kind} '{value}'.", f"one of {', '.join(allowed[kind][:20])}")
        made = Adjudication(
            item_id=item_id,
            question=question,
            choice=choice,
            adjudicator=annotator_name(adjudicator),
            comment=comment,
            created_at=now(),
        )
        with exclusive_transaction(self._engine) as connection:
            connection.execute(_adjudications.insert().values(study=name, **asdict(made)))
        return made

    def adjudications(self, name: str) -> dict[tuple[str, str], Adjudication]:
        """Return {(item id, question): the newest adjudication} of a study."""
        query = sa.select(_adjudications).where(_adjudications.c.study == name).order_by(_adjudications.c.sequence)
        made = {}
        with self._engine.connect() as connection:
            for row in connection.execute(query).mappings():
                fields = {key: value for key, value in row.items() if key not in ("sequence", "study")}
                made[row["item_id"], row["question"]] = Adjudication(**fields)
        return made

    def progress(self, name: str) -> list[Progress]:
        """Return how far each annotator of a study is."""
        newest, tasks = self.newest_ratings(name), self.tasks(name)
        rows = []
        for annotator in sorted({task.annotator for task in tasks}):
            own = [task for task in tasks if task.annotator == annotator]
            ratings = [newest[task.id] for task in own if task.id in newest]
            rated = [rating for rating in ratings if not rating.skipped]
            seconds = sum(rating.seconds for rating in rated) / len(rated) if rated else 0.0
            rows.append(Progress(annotator, len(rated), len(ratings) - len(rated), len(own), seconds))
        return rows

    def close(self) -> None:
        """Close every connection; the store can be used again afterwards."""
        self._engine.dispose()


def _select_tasks(connection: sa.Connection, name: str) -> list[Task]:
    query = sa.select(_assigned).where(_assigned.c.study == name).order_by(_assigned.c.annotator, _assigned.c.position)
    return [_task(row) for row in connection.execute(query).mappings()]


def _task(row: Mapping[str, Any]) -> Task:
    return Task(**{key: value for key, value in row.items() if key != "created_at"})


def _item(row: Mapping[str, Any]) -> StudyItem:
    answers = tuple(
        ShownAnswer(answer["text"], tuple(answer["sources"]), answer["model"]) for answer in json.loads(row["answers"])
    )
    fields = {key: value for key, value in row.items() if key not in ("study", "answers")}
    return StudyItem(**fields, answers=answers)


def _rating(row: Mapping[str, Any]) -> Rating:
    return Rating(**{**row, "choices": json.loads(row["choices"])})


def _says_the_same(stored: Rating, rating: Rating) -> bool:
    return (
        stored.annotator == rating.annotator and stored.choices == rating.choices and stored.comment == rating.comment
    )
