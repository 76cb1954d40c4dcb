"""The whole graph, built once with the real base model and the real engine on small settings."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from ragtune.backends.engines import kernel_lines
from ragtune.dataset.reviews.store import ReviewStore
from ragtune.model.base.capacity import reads_int4
from ragtune.model.compression.weights import inspect_weights
from ragtune.records import ArtifactRef, Chunk, ResponseRecord, SplitItem
from ragtune.settings import Settings, child_environment, load_settings
from ragtune.store.artifacts import ArtifactStore
from ragtune.store.feedback import FeedbackLog
from ragtune.store.registry import ModelRegistry, assemble, verify
from ragtune.store.warehouse import Warehouse

ROOT = Path(__file__).parent.parent
EVALUATION = {"eval_answers", "eval_scores", "released_model"}
ROOTS = {
    *{"answer_ratings", "base_model", "existing_pairs", "feedback_events", "gateway_loads", "raw_documents"},
    "review_decisions",
}
SMALL = {
    "RAGTUNE_SOURCES": '["package:filelock"]',
    "RAGTUNE_DATASET__MIN_PAIRS": "100",
    "RAGTUNE_TRAINING__MAX_STEPS": "4",
    "RAGTUNE_TRAINING__BATCH_SIZE": "1",
    "RAGTUNE_TRAINING__TOGETHER": "2",
    "RAGTUNE_TRAINING__VALIDATION_EXAMPLES": "2",
    "RAGTUNE_QUANTIZATION__CALIBRATION_SAMPLES": "2",
    "RAGTUNE_QUANTIZATION__SERVE": "w8a8",
    "RAGTUNE_ANSWER__MAX_TOKENS": "24",
    "RAGTUNE_EVALUATION__PRECISIONS": "[]",
    "RAGTUNE_EVALUATION__RAW_ITEMS": "0",
    "RAGTUNE_EVALUATION__TEST_ITEMS": "6",
    "RAGTUNE_EVALUATION__GATE_ITEMS": "12",
    # 0.05 for each candidate. At a twentieth of that, nine of the twelve answers would have to improve.
    "RAGTUNE_EVALUATION__ALPHA": "0.2",
    "RAGTUNE_EVALUATION__GATE_LOOKS": "4",
    "RAGTUNE_EVALUATION__OUT_OF_DOMAIN_ITEMS": "4",
    "RAGTUNE_BENCHMARK__PRECISIONS": '["w4a16"]',
    "RAGTUNE_BENCHMARK__CONCURRENCY": "[2]",
    "RAGTUNE_BENCHMARK__REQUESTS": "4",
    "RAGTUNE_BENCHMARK__ROUNDS": "2",
    "RAGTUNE_FEEDBACK__RETRAIN_AFTER": "1",
}

ENGINE = ROOT / load_settings().engine.python
pytestmark = [
    pytest.mark.graph,
    pytest.mark.engine,
    pytest.mark.skipif(not ENGINE.is_file(), reason=f"there is no engine environment at {ENGINE}"),
]


@dataclass
class Home:
    """A home, its settings, and the output of the first materialisation."""

    settings: Settings
    environment: dict[str, str]
    output: str = ""

    @property
    def store(self) -> ArtifactStore:
        return ArtifactStore(self.settings.home / "artifacts")

    @property
    def registry(self) -> ModelRegistry:
        return ModelRegistry(self.settings)

    def ref(self, name: str) -> ArtifactRef:
        ref = self.store.current(name)
        assert ref is not None, name
        return ref

    def materialize(self, *arguments: str) -> str:
        return self.python("-m", "ragtune_assets.materialize", *arguments)

    def python(self, *arguments: str) -> str:
        command = [sys.executable, *arguments]
        done = subprocess.run(command, env=self.environment, cwd=ROOT, capture_output=True, text=True, timeout=1500)
        assert done.returncode == 0, f"{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
        return done.stdout


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home after one materialisation of the whole graph."""
    folder = tmp_path_factory.mktemp("graph")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**SMALL, "RAGTUNE_HOME": str(folder)}.items():
            patch.setenv(name, value)
        built_home = Home(load_settings(), child_environment())
        built_home.output = built_home.materialize()
        sys.stdout.write(built_home.output)
        yield built_home


def built(output: str) -> set[str]:
    return set(re.findall(r"(\w+): building, because", output))


def test_the_first_run_builds_everything_and_releases_a_model_that_verifies(home):
    assert len(built(home.output)) == 37
    (model,) = home.registry.versions()
    manifest = verify(Path(model.folder))
    assert set(manifest.precisions) == {"w4a16", "w8a8"}
    assert manifest.served_precision == "w8a8"
    assert manifest.adapter_sha256 == home.ref("lora_adapter").sha256
    assert manifest.dataset_sha256 == home.ref("qa_splits").sha256
    assert manifest.feedback_ids == ()
    assert manifest.gate["live_version"] == "base"
    assert manifest.gate["n"] > 0
    champion, challenger = home.registry.alias("champion"), home.registry.alias("challenger")
    assert (champion or challenger).version == model.version
    assert (champion is not None) == manifest.gate["promoted"]


def test_every_number_is_in_the_warehouse(home):
    warehouse = Warehouse(home.settings.home / "warehouse.duckdb")
    scores = {(s.model, s.precision, s.split) for s in warehouse.scores() if s.metric == "token_f1"}
    assert {("base", "bf16", "test"), ("fine-tuned", "w8a8", "test")} <= scores
    assert {("base", "bf16", "gate"), ("fine-tuned", "w8a8", "gate")} <= scores
    (decision,) = warehouse.decisions()
    assert decision.candidate_version == home.ref("quantized_model").sha256[:12]
    assert decision.out_of_domain_n == 4
    (row,) = warehouse.benchmarks()
    assert (row.precision, row.concurrency, row.errors) == ("w4a16" if reads_int4("cpu") else "w4a16 unpacked", 2, 0)
    assert row.tokens_per_second > 0
    assert row.peak_memory_bytes > row.model_bytes > 0
    differences = {row.metric: row for row in warehouse.speed_differences()}
    candidate = f"{home.ref('quantized_model').sha256[:12]} w8a8"
    assert {(row.before, row.after) for row in differences.values()} == {("base bf16", candidate)}
    assert differences["size of the weights"].verdict == "better"
    assert differences["tokens per second"].rounds == 2


def test_the_quantised_weights_are_packed_and_the_engine_reports_its_kernel(home):
    folder = home.store.folder(home.ref("quantized_model"))
    int4, int8 = inspect_weights(folder / "w4a16"), inspect_weights(folder / "w8a8")
    assert int4["packed_int4"] == int8["int8"] == 30 * 7
    assert int4["plain"] == int8["plain"] == 0
    plain = inspect_weights(home.store.folder(home.ref("merged_model")))
    assert int4["bytes"] < 0.45 * plain["bytes"]
    logs = {name: engine_log(home, name) for name in ("benchmark-w4a16", "fine-tuned-w8a8")}
    assert re.search("Int8|ScaledMM|Scaled", " ".join(kernel_lines(logs["fine-tuned-w8a8"])))
    if reads_int4("cpu"):
        assert "WNA16" in " ".join(kernel_lines(logs["benchmark-w4a16"]))
    else:  # unpacked, because vLLM has no kernel for INT4 without AVX-512
        assert "/engine-cache/unpacked/" in logs["benchmark-w4a16"].read_text()


def engine_log(home: Home, engine: str) -> Path:
    (log,) = (home.settings.home / "logs").glob(f"engine-{engine}-*.log")
    return log


def test_training_is_tracked(home):
    from mlflow import MlflowClient

    (model,) = home.registry.versions()
    run = MlflowClient(tracking_uri=home.settings.tracking_url).get_run(model.manifest.mlflow_run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["rank"] == "16"
    assert run.data.metrics["loss"] > 0


def test_a_second_run_rebuilds_only_the_roots(home):
    assert built(home.materialize()) == ROOTS
    assert len(home.registry.versions()) == 1


def test_a_candidate_replaces_a_champion_that_answers_worse(home):
    """The champion is a copy of the model whose embeddings are permuted: it loads, but it writes random words."""
    damaged = register_damaged_copy(home)
    home.registry.move("champion", damaged)
    before = engine_logs(home)

    assert built(evaluate_again(home)) == EVALUATION

    [log] = engine_logs(home) - before
    assert "champion" in log.name, "only the champion has weights without stored answers"
    decision = Warehouse(home.settings.home / "warehouse.duckdb").decisions()[-1]
    assert decision.live_version == f"version {damaged}"
    assert decision.live < decision.candidate
    assert decision.promoted, decision.reason
    newest = home.registry.versions()[-1]
    assert home.registry.alias("champion").version == newest.version != damaged
    assert home.registry.alias("previous").version == damaged


def test_a_candidate_that_equals_the_champion_is_refused_and_starts_no_engine(home):
    champion, before = home.registry.alias("champion").version, engine_logs(home)
    assert built(evaluate_again(home)) == EVALUATION
    assert engine_logs(home) == before, "the answers of the same weights are stored"
    decision = Warehouse(home.settings.home / "warehouse.duckdb").decisions()[-1]
    assert (decision.live_version, decision.promoted) == (f"version {champion}", False)
    assert home.registry.alias("champion").version == champion
    assert home.registry.alias("challenger").manifest.gate["promoted"] is False


def evaluate_again(home: Home) -> str:
    return home.materialize("--force", *(f"--select={name}" for name in sorted(EVALUATION)))


def engine_logs(home: Home) -> set[Path]:
    return set((home.settings.home / "logs").glob("engine-*.log"))


def register_damaged_copy(home: Home) -> str:
    import torch
    from safetensors.torch import load_file, save_file

    model = home.registry.versions()[-1]
    folders = {name: Path(model.folder) / sub for name, sub in model.manifest.precisions.items()}
    served = model.manifest.served_precision
    copy = shutil.copytree(folders[served], home.settings.home / "work" / "damaged")
    tensors = load_file(copy / "model.safetensors")
    name = "model.embed_tokens.weight"
    order = torch.randperm(len(tensors[name]), generator=torch.Generator().manual_seed(0))
    save_file({**tensors, name: tensors[name][order]}, copy / "model.safetensors", metadata={"format": "pt"})
    folder = assemble(home.settings.home / "models", {**folders, served: copy}, model.manifest)
    return home.registry.register(folder)


@pytest.mark.slow
def test_a_correction_triggers_the_sensor_and_the_next_manifest_names_it(home):
    before = home.ref("lora_adapter")
    chunks = {chunk.id: chunk for chunk in home.store.read_records(home.ref("chunks"), Chunk)}
    items = home.store.read_records(home.ref("qa_splits"), SplitItem)
    pair = next(i.pair for i in items if i.split == "train" and i.pair.answerable and len(i.pair.answer.split()) > 4)
    log = FeedbackLog(home.settings.feedback_url)
    question = f"In one line, {pair.question[0].lower()}{pair.question[1:]}"
    log.record_response(
        ResponseRecord(
            id="r-1",
            created_at="2026-01-01",
            question=question,
            answer="Wrong.",
            model="ragtune",
            model_version="1",
            chunk_ids=(pair.chunk_id,),
            cited_chunk_ids=(),
            refused=False,
        )
    )
    event = log.add("r-1", "down", correction=pair.answer)
    assert pair.chunk_id in chunks
    waiting = json.loads(home.python("-m", "tests.support.daemon_ticks").splitlines()[-1])
    assert waiting == {"sensor": "0 new corrections can train; 1 are needed.", "layers": []}
    reviews = ReviewStore(home.settings.feedback_url)
    reviews.decide(replace(pair, question=question), "ada", "accept")
    reviews.close()
    log.close()

    outcome = json.loads(home.python("-m", "tests.support.daemon_ticks").splitlines()[-1])

    assert outcome["sensor"]["ragtune/new_feedback"] == "1"
    rebuilt = [name for layer in outcome["layers"] for name in layer]
    order = ["qa_dataset", "qa_splits", "lora_adapter", "merged_model", "quantized_model"]
    assert [name for name in rebuilt if name in order] == order
    # The report of the candidate waits for the benchmark, which these ticks leave out.
    assert rebuilt[-2:] == ["released_model", "experiment_results"]
    assert len(rebuilt) == len(set(rebuilt)), "nothing is built twice"
    adapter = home.ref("lora_adapter")
    assert adapter.sha256 != before.sha256
    newest = home.registry.versions()[-1]
    assert newest.manifest.adapter_sha256 == adapter.sha256
    assert newest.manifest.feedback_ids == (event.id,)
    next_tick = json.loads(home.python("-m", "tests.support.daemon_ticks").splitlines()[-1])
    assert next_tick == {"sensor": "0 new corrections can train; 1 are needed.", "layers": []}
