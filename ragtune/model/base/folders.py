"""Writes model folders atomically: a folder appears complete or not at all."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_COMPANIONS = ("*.json", "*.jinja", "*.model", "merges.txt", "vocab.txt", "LICENSE*")


@contextmanager
def atomic_folder(out: Path) -> Iterator[Path]:
    """Yield an empty scratch folder that replaces `out` at the end; a failure removes it and leaves `out` as it was."""
    out.parent.mkdir(parents=True, exist_ok=True)
    scratch = out.with_name(f".{out.name}.{os.getpid()}")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    try:
        yield scratch
        if out.exists():
            shutil.rmtree(out)
        scratch.rename(out)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def copy_companions(source: Path, target: Path, leave_out: tuple[str, ...] = ()) -> None:
    """Copy the configuration, tokenizer and licence files of a model; symbolic links become files."""
    for pattern in _COMPANIONS:
        for path in source.glob(pattern):
            if path.name not in leave_out:
                shutil.copyfile(path, target / path.name)
