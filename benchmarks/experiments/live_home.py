"""Makes a home for `benchmarks.experiments.live`: an index, the raw model as version 1 and the shipped one as 2.

    python -m benchmarks.experiments.live_home HOME

The documents are those of the question set `manual`. Both models are SmolLM2-135M-Instruct, served in the precision
that the machine answers fastest with: version 1, the champion, as its package holds it, version 2 with the reading
adapter that RagTune ships.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.questions.offline import DOCUMENTS, ROOT
from ragtune.backends.served_base import served_base
from ragtune.model.base.pretrained import PACKAGED_NAME, RAW_NAME, resolve_base_model
from ragtune.settings import Settings, load_settings
from ragtune.store.artifacts import ArtifactStore
from ragtune.store.registry import ModelRegistry, assemble
from ragtune.store.timestamps import now
from tests.support.releases import manifest

MODELS = (RAW_NAME, PACKAGED_NAME)
"""Base models in the order of their versions; the first one becomes champion."""


@dataclass(frozen=True, slots=True)
class PreparedHome:
    """A home whose registry holds `versions`, with an index of the documents."""

    home: Path
    versions: tuple[str, ...]


def prepare(home: Path, set_name: str = "manual", models: Sequence[str] = MODELS) -> PreparedHome:
    """Index the documents of a question set, and release each base model as a version; the first becomes champion.

    A home that was prepared before stays as it is.
    """
    from ragtune.knowledge.library import Library
    from ragtune.ports import silent
    from ragtune_serving.commands.documents import bring_up_to_date

    settings = load_settings({"home": home, "sources": [f"folder:{ROOT / DOCUMENTS[set_name]}"]})
    registry = ModelRegistry(settings)
    if not registry.versions():
        bring_up_to_date(settings, Library(settings).read([]).documents, silent)
        for name in models:
            registry.register(_released(settings, name))
        registry.move("champion", registry.versions()[0].version)
    return PreparedHome(home, tuple(version.version for version in registry.versions()))


def _released(settings: Settings, name: str) -> Path:
    """Return a release of a base model, in the precision that this machine serves."""
    store = ArtifactStore(settings.home / "artifacts")
    # Two names, so that the second model does not take the first one's place in the store.
    base = resolve_base_model(settings.base_model.model_copy(update={"name": name}), store, name=f"live_{name}")
    folder, precision = served_base(settings, store, base)
    facts = manifest(
        created_at=now(),
        base_model=name,
        base_sha256=base.sha256,
        adapter_sha256="",
        dataset_sha256="",
        prompt_sha256="",
        seed=settings.seed,
        code_version="",
        served_precision=precision,
    )
    return assemble(settings.home / "models", {precision: folder}, facts)


if __name__ == "__main__":
    print(prepare(Path(sys.argv[1]).resolve()))
