"""The code location: every asset with its code version, the sensors and the resources.

An asset's code version is its own plus a fingerprint of the settings that shape it, so a changed
knob makes stale exactly what it touches.
"""

from typing import Any

import dagster as dg

from ragtune.answer.prompt import prompt_sha256
from ragtune.settings import Settings, load_settings
from ragtune_assets import dataset, evaluation, feedback, knowledge, model, release
from ragtune_assets.automation import keep_up, when_inputs_change
from ragtune_assets.feedback import enough_new_feedback, enough_new_reviews
from ragtune_assets.knowledge import changed_sources
from ragtune_assets.resources import build_resources

SHAPED_BY: dict[str, tuple[str, ...]] = {
    "raw_documents": ("sources",),
    "chunks": ("chunking", "embedder"),
    "search_index": ("index", "embedder"),
    "feedback_events": (),
    "review_decisions": (),
    "qa_candidates": ("dataset", "seed"),
    "qa_dataset": ("dataset", "index", "embedder", "seed"),
    "qa_splits": ("dataset", "embedder", "seed"),
    "published_dataset": ("seed",),
    "out_of_domain_questions": ("chunking", "embedder", "dataset", "evaluation", "answer", "seed"),
    "replay_questions": ("chunking", "embedder", "dataset", "training", "answer", "seed"),
    "base_model": ("base_model",),
    "lora_adapter": ("training", "answer", "index", "seed"),
    "merged_model": (),
    "quantized_model": ("quantization", "answer", "seed"),
    "eval_answers": ("evaluation", "answer", "index", "quantization", "engine", "seed"),
    "eval_scores": ("evaluation", "seed"),
    "benchmark_runs": ("benchmark", "answer", "engine"),
    "benchmark_tables": (),
    "released_model": ("evaluation", "quantization"),
}
PROMPTED = ("lora_adapter", "quantized_model", "eval_answers", "benchmark_runs")


def build_definitions(settings: Settings) -> dg.Definitions:
    """Return the code location for these settings."""
    prompt = prompt_sha256()[:8]

    def versioned(spec: dg.AssetSpec) -> dg.AssetSpec:
        name = spec.key.to_user_string()
        parts = [spec.code_version or "", settings.fingerprint(*SHAPED_BY[name])]
        parts += [prompt] if name in PROMPTED else []
        condition = when_inputs_change() if list(spec.deps) else None
        return spec.replace_attributes(code_version="-".join(parts), automation_condition=condition)

    assets: Any = dg.load_assets_from_modules([knowledge, dataset, model, evaluation, release, feedback])
    return dg.Definitions(
        assets=dg.map_asset_specs(versioned, assets),
        sensors=[enough_new_feedback, enough_new_reviews, changed_sources, keep_up()],
        resources=build_resources(settings),
        executor=dg.multiprocess_executor.configured({"max_concurrent": 1}),
    )


@dg.definitions
def defs() -> dg.Definitions:
    """Return the code location of `ragtune.yaml` and the environment."""
    return build_definitions(load_settings())
