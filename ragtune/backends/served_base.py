"""The base model in the precision that the machine answers fastest with, for the time before the first release."""

import hashlib
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from ragtune.errors import ModelError
from ragtune.extras import install_command
from ragtune.model.base.capacity import Machine, chosen_device, fastest_precision
from ragtune.model.compression.quantization import quantize_w8a8
from ragtune.model.compression.weights import inspect_weights
from ragtune.ports import Progress, silent
from ragtune.records import ArtifactRef
from ragtune.settings import Settings, child_environment
from ragtune.store.artifacts import MANIFEST, ArtifactStore
from ragtune.store.disk_use import in_words

ARTIFACT = "base_model_w8a8"
RECIPE = "w8a8-1"
"""Part of the artefact's name. Change it whenever `quantize_w8a8` would write other files."""
_WARNING = "the base model is served in bf16, because llm-compressor is not installed: {}"


def served_base(
    settings: Settings, store: ArtifactStore, base: ArtifactRef, progress: Progress = silent
) -> tuple[Path, str]:
    """Return the folder and the precision in which the base model is served.

    INT8 weights are made once, in a process of its own, if the processor answers fastest with them. INT4 weights need
    questions to be calibrated with, which nobody has yet, so a GPU gets the base model as it is. Raises ModelError if
    the weights cannot be made.
    """
    folder = store.folder(base)
    stored = str(inspect_weights(folder)["precision"])
    wanted = settings.quantization.serve
    fastest = fastest_precision(chosen_device(settings.device)) if wanted == "auto" else wanted
    if stored != "bf16" or fastest != "w8a8":
        return folder, stored
    identity = hashlib.sha256(f"{base.sha256}:{RECIPE}".encode()).hexdigest()
    made = store.root / ARTIFACT / identity[:16]
    if (made / MANIFEST).is_file():
        return made, "w8a8"
    if find_spec("llmcompressor") is None:
        progress(_WARNING.format(install_command("quantize")), 0, 1)
        return folder, "bf16"
    making = _announcement(folder, made.parent)
    progress(making, 0, 1)
    with store.stage(ARTIFACT) as scratch:
        _quantize_elsewhere(settings, folder, scratch / "model")
        for file in (scratch / "model").iterdir():
            file.rename(scratch / file.name)
        (scratch / "model").rmdir()
        ref = store.commit(ARTIFACT, scratch, identity=identity)
    progress(making, 1, 1)
    return store.folder(ref), "w8a8"


def _announcement(base: Path, target: Path) -> str:
    """Return what is about to be made, why, how large it gets, where, and how to do without."""
    size = in_words(sum(file.stat().st_size for file in base.glob("*.safetensors")))
    return (
        f"making INT8 weights of the base model, once per home (less than {size} in {target}), because this processor "
        "answers fastest with them; `quantization.serve: bf16` does without"
    )


def _quantize_elsewhere(settings: Settings, model: Path, out: Path) -> None:
    """Quantise in a process of its own, so that the one that answers keeps neither its memory nor its libraries."""
    guard = [sys.executable, "-m", "ragtune.backends.guard", str(os.getpid())]
    command = [*guard, sys.executable, "-m", "ragtune.backends.served_base", str(model), str(out)]
    reply = subprocess.run(
        [*command, settings.device, str(settings.threads)],
        env=child_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    if reply.returncode:
        last = (reply.stderr.strip().splitlines() or [f"it ended with code {reply.returncode}"])[-1]
        raise ModelError(
            f"The INT8 weights of the base model could not be made: {last}", fix="set quantization.serve: bf16"
        )


if __name__ == "__main__":
    quantize_w8a8(Path(sys.argv[1]), Path(sys.argv[2]), Machine(sys.argv[3], int(sys.argv[4])))
