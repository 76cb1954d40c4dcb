"""A disk that fills up while a model is trained, merged or quantised: a clear error, no half-written file, a way on.

Each of these stages says before it starts if there is too little room (`require_disk`). Here the room is there, and
another program takes it in the middle.
"""

from collections.abc import Callable
from pathlib import Path

import pytest

from ragtune.errors import ResourceError
from ragtune.model.base.capacity import Machine
from ragtune.model.base.merge import merge_adapter
from ragtune.model.compression.quantization import quantize_w4a16
from ragtune.model.training.report import read_report
from ragtune.model.training.sft import TrainingJob, train_adapter
from ragtune.model.training.tracking import Tracker
from ragtune.model_settings import QuantizationSettings, TrainingSettings
from ragtune.ports import Progress
from ragtune.store.disk_use import is_disk_full
from tests.support.small_disk import fill
from tests.support.tiny_llama import make_tiny_llama, talks
from tests.test_merge import write_adapter

ONE_CORE = Machine("cpu", 1)
LEFT = 16 << 10
"""Less than any of the weights, more than a small file: the stage fails in the middle of what it writes."""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_llama(tmp_path_factory.mktemp("tiny") / "model")


class Filler:
    """A progress report that fills the disk at its `moment`-th call about `what`."""

    def __init__(self, disk: Path, what: str, moment: int = 1) -> None:
        self.disk, self.what, self.moment = disk, what, moment
        self.free: Callable[[], None] | None = None

    def __call__(self, what: str, done: int, total: int) -> None:
        if what.startswith(self.what) and self.free is None:
            self.moment -= 1
            if self.moment == 0:
                self.free = fill(self.disk, leave=LEFT)


def fails_in_the_middle(disk: Path, filler: Filler, work: Callable[[Progress], object]) -> None:
    """Check that the work fails while it writes, leaves nothing behind, and succeeds once there is room."""
    with pytest.raises(Exception) as caught:  # noqa: PT011 every library has its own type
        work(filler)
    assert filler.free is not None, "the disk was never filled"
    assert is_disk_full(caught.value), repr(caught.value)
    assert [path.name for path in disk.iterdir()] == ["ballast"]
    filler.free()
    work(lambda what, done, total: None)


def test_merging(tiny: Path, small_disk: Path, tmp_path: Path) -> None:
    adapter, out = write_adapter(tiny, tmp_path / "lora"), small_disk / "merged"
    fails_in_the_middle(
        small_disk, Filler(small_disk, "merging"), lambda progress: merge_adapter(tiny, adapter, out, progress)
    )
    assert (out / "model.safetensors").stat().st_size == (tiny / "model.safetensors").stat().st_size


def test_quantising_to_int4(tiny: Path, small_disk: Path) -> None:
    settings, out = QuantizationSettings(group_size=32, calibration_samples=4), small_disk / "w4a16"
    fails_in_the_middle(
        small_disk,
        Filler(small_disk, "quantising layers"),
        lambda progress: quantize_w4a16(tiny, talks(2), settings, out, ONE_CORE, progress),
    )
    assert (out / "model.safetensors").is_file()


def test_training_goes_on_from_the_checkpoint_before(tiny: Path, small_disk: Path, tmp_path: Path) -> None:
    settings = TrainingSettings(minutes=5, max_steps=8, batch_size=2, checkpoint_every=2, validation_examples=2)
    # The adapter goes to another disk, which has the room that a training asks for.
    job = TrainingJob(base=tiny, settings=settings, seed=7, out=tmp_path / "out", checkpoints=small_disk / "resume")
    filler = Filler(small_disk, "training", moment=3)
    with pytest.raises(ResourceError) as caught:
        train_adapter(job, talks(16), talks(2), Tracker(), ONE_CORE, filler)
    assert filler.free is not None, "the disk was never filled"
    assert "are needed for the next checkpoint" in str(caught.value), "told before anything is written"
    assert not (tmp_path / "out").exists()
    filler.free()
    report = train_adapter(job, talks(16), talks(2), Tracker(), ONE_CORE)
    assert (report.resumed_from, report.steps) == (2, 8)
    assert read_report(tmp_path / "out") == report
