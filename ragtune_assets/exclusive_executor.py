"""The executor of Dagster's runs, which waits for the lock of the home.

`ragtune materialize` fails at once if the lock is taken, because a person is there to decide. A run of Dagster waits:
the daemon starts runs by itself and would lose them. The lock belongs to the process that orchestrates the run.
"""

import ctypes
import multiprocessing
import os
import signal
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._core.errors import raise_execution_interrupts

from ragtune.errors import ResourceError
from ragtune.settings import Settings
from ragtune.store.home_lock import exclusive
from ragtune_assets.dead_runs import alive, close_dead_runs, free_slots
from ragtune_assets.tracking import PARENT_TAG, Status, end_runs

_PR_SET_PDEATHSIG = 1
"""The number of `prctl` that asks for a signal when the parent ends."""
_POLL_SECONDS = 1.0
"""How long a freed lock may stay unnoticed. Chosen by hand; not sensitive."""
_NOTICE_SECONDS = 60.0
"""How often a waiting run says what it waits for. Chosen by hand; not sensitive."""


def exclusive_executor(home: Path, settings: Settings | None = None) -> dg.ExecutorDefinition:
    """Return the executor of Dagster's runs: it takes the lock, then builds each asset in a process of its own.

    With `settings` it also ends the MLflow runs of the Dagster run: only it knows when the last step is over.
    """
    processes = dg.multiprocess_executor
    config_schema: Any = processes.config_schema

    @dg.executor(
        name="one_build_at_a_time",
        config_schema=config_schema,
        requirements=dg.multiple_process_executor_requirements(),
    )
    def one_build_at_a_time(context: dg.InitExecutorContext) -> dg.Executor:
        assert processes.executor_creation_fn is not None
        return _ExclusiveExecutor(processes.executor_creation_fn(context), home, settings)

    # Two assets at once would share the memory and the cores that each of them plans with.
    return one_build_at_a_time.configured({"max_concurrent": 1})


def end_with_the_run() -> None:
    """Have Linux kill this process when the process of the run ends, if this one executes a step for it.

    Otherwise a step would go on after a kill of its run, and write while the next build does.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return  # the run executes its steps in its own process
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if not parent.is_alive():
        os.kill(os.getpid(), signal.SIGKILL)  # it ended before the kernel knew


class _ExclusiveExecutor(dg.Executor):
    """Holds the lock of a home while another executor runs a plan, and ends the runs of MLflow afterwards."""

    def __init__(self, executor: dg.Executor, home: Path, settings: Settings | None) -> None:
        self.executor, self.home, self.settings = executor, home, settings

    def execute(self, plan_context, execution_plan):
        """Wait for the lock, then yield the events of the other executor."""
        with ExitStack() as stack:
            stack.enter_context(alive(self.home, plan_context.run_id))
            self._wait(stack, plan_context)
            # Who holds a slot of a pool holds the lock, too, and that is this run now.
            close_dead_runs(plan_context.instance, self.home)
            free_slots(plan_context.instance, but_of=plan_context.run_id)
            yield from self._tracked(plan_context, execution_plan)

    def _tracked(self, plan_context, execution_plan):
        """Yield the events of the other executor; end the MLflow runs of this Dagster run, if a step made any."""
        status: Status = "KILLED"
        has_failed = False
        try:
            for event in self.executor.execute(plan_context, execution_plan):
                has_failed |= event.is_step_failure
                yield event
            status = "FAILED" if has_failed else "FINISHED"
        finally:
            run = plan_context.instance.get_run_by_id(plan_context.run_id)
            if self.settings is not None and run is not None and PARENT_TAG in run.tags:
                end_runs(self.settings, plan_context.run_id, status)

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
