"""One build at a time in a home: `ragtune materialize` and the runs of Dagster take the same lock.

`ragtune materialize` fails at once if the lock is taken, because a person is there to decide. A run of Dagster waits:
the daemon starts runs by itself and would lose them. The lock belongs to the process that orchestrates the run, and
the operating system releases it when that process ends, however it ends.
"""

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._core.errors import raise_execution_interrupts

from ragtune.errors import ResourceError
from ragtune_assets.dead_runs import alive, close_dead_runs, free_slots

LOCK = "materialize.lock"
HOLDER = "materialize.pid"
"""Holds the process id of the holder in its first line, and what that process is in its second."""
_PATIENCE_SECONDS = 0.5
"""How long to try to take the lock: a look from outside holds it for microseconds. Chosen by hand; not sensitive."""
_POLL_SECONDS = 1.0
"""How long a freed lock may stay unnoticed. Chosen by hand; not sensitive."""
_NOTICE_SECONDS = 60.0
"""How often a waiting run says what it waits for. Chosen by hand; not sensitive."""


@contextmanager
def exclusive(home: Path, holder: str = "`ragtune materialize`") -> Iterator[None]:
    """Hold the home for one build; raise ResourceError that names the process that holds it."""
    from filelock import FileLock, Timeout

    home.mkdir(parents=True, exist_ok=True)
    lock = FileLock(home / LOCK, timeout=_PATIENCE_SECONDS, poll_interval=0.05)
    try:
        lock.acquire()
    except Timeout as error:
        pid, name = _holder(home)
        raise ResourceError(
            f"Process {pid}{name} is already building the graph in {home}.",
            expected="one build at a time in a home",
            fix=f"wait for it, end it (`kill {pid}`, or Terminate in Dagster), or set RAGTUNE_HOME to another folder",
        ) from error
    try:
        (home / HOLDER).write_text(f"{os.getpid()}\n{holder}\n")
        yield
    finally:
        (home / HOLDER).unlink(missing_ok=True)
        lock.release()


def exclusive_executor(home: Path) -> dg.ExecutorDefinition:
    """Return the executor of Dagster's runs: it takes the lock, then builds each asset in a process of its own."""
    processes = dg.multiprocess_executor
    config_schema: Any = processes.config_schema

    @dg.executor(
        name="one_build_at_a_time",
        config_schema=config_schema,
        requirements=dg.multiple_process_executor_requirements(),
    )
    def one_build_at_a_time(context: dg.InitExecutorContext) -> dg.Executor:
        assert processes.executor_creation_fn is not None
        return _ExclusiveExecutor(processes.executor_creation_fn(context), home)

    # Two assets at once would share the memory and the cores that each of them plans with.
    return one_build_at_a_time.configured({"max_concurrent": 1})


class _ExclusiveExecutor(dg.Executor):
    """Holds the lock of a home while another executor runs a plan."""

    def __init__(self, executor: dg.Executor, home: Path) -> None:
        self.executor, self.home = executor, home

    def execute(self, plan_context, execution_plan):
        """Wait for the lock, then yield the events of the other executor."""
        with ExitStack() as stack:
            stack.enter_context(alive(self.home, plan_context.run_id))
            self._wait(stack, plan_context)
            # Who holds a slot of a pool holds the lock, too, and that is this run now.
            close_dead_runs(plan_context.instance, self.home)
            free_slots(plan_context.instance, but_of=plan_context.run_id)
            yield from self.executor.execute(plan_context, execution_plan)

    def _wait(self, stack: ExitStack, plan_context) -> None:
        """Enter the lock as soon as it is free; an interrupt, such as Terminate in Dagster, ends the waiting."""
        next_notice = 0.0
        while True:
            try:
                stack.enter_context(exclusive(self.home, f"run {plan_context.run_id[:8]} of Dagster"))
                return
            except ResourceError as error:
                if time.monotonic() >= next_notice:
                    plan_context.log.info(f"{error.found} This run waits until that process is done.")
                    next_notice = time.monotonic() + _NOTICE_SECONDS
            with raise_execution_interrupts():
                time.sleep(_POLL_SECONDS)

    @property
    def retries(self):
        """The retries of the other executor."""
        return self.executor.retries

    @property
    def step_dependency_config(self):
        """The dependencies between steps as the other executor handles them."""
        return self.executor.step_dependency_config


def _holder(home: Path) -> tuple[str, str]:
    """Return the process id and the name of the holder; it may not have written them yet."""
    file = home / HOLDER
    lines = file.read_text().splitlines() if file.is_file() else []
    return (lines[0] if lines else "unknown"), (f" ({lines[1]})" if len(lines) > 1 else "")
