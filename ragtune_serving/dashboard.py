"""The Grafana dashboard of the gateway, built from a table of panels; a test checks every query against `/metrics`."""

from dataclasses import dataclass
from typing import Any

_RATE = "[$__rate_interval]"
_WIDTH, _HEIGHT, _COLUMNS = 8, 8, 3
"""Of a panel, in Grafana's grid of 24 columns."""
_SCHEMA = 39
"""Version of the dashboard format, that of Grafana 11. Newer versions read it."""
_DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}


@dataclass(frozen=True, slots=True)
class Query:
    """A PromQL expression and the legend of its series, in which `{{label}}` stands for a label's value."""

    expression: str
    legend: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One panel; `unit` is a name of Grafana's units, `about` what the panel tells."""

    title: str
    unit: str
    queries: tuple[Query, ...]
    about: str
    kind: str = "timeseries"


def _quantiles(metric: str) -> tuple[Query, ...]:
    buckets = f"sum by (le) (rate({metric}_bucket{_RATE}))"
    return tuple(Query(f"histogram_quantile({share}, {buckets})", f"p{share * 100:.0f}") for share in (0.5, 0.95, 0.99))


def _rate_by(metric: str, label: str) -> tuple[Query, ...]:
    return (Query(f"sum by ({label}) (rate({metric}{_RATE}))", f"{{{{{label}}}}}"),)


def _ratio(part: str, whole: str, legend: str) -> Query:
    return Query(f"sum(rate({part}{_RATE})) / sum(rate({whole}{_RATE}))", legend)


ROWS: dict[str, tuple[Panel, ...]] = {
    "What people get": (
        Panel(
            title="Requests by outcome",
            unit="reqps",
            queries=_rate_by("ragtune_requests_total", "outcome"),
            about="refused: a wrong request; unavailable: no engine; broken: the client went away.",
        ),
        Panel(
            title="Answers by what was delivered",
            unit="reqps",
            queries=_rate_by("ragtune_deliveries_total", "kind"),
            about="The model's own words, a quotation, both, or a refusal.",
        ),
        Panel(
            title="Failed checks",
            unit="reqps",
            queries=_rate_by("ragtune_failed_checks_total", "reason"),
            about="Texts of the model that failed a check, by reason.",
        ),
        Panel(
            title="Shares of refusals and warnings",
            unit="percentunit",
            queries=(
                _ratio("ragtune_refusals_total", "ragtune_deliveries_total", "refusals"),
                _ratio("ragtune_answers_with_warnings_total", "ragtune_deliveries_total", "with warnings"),
            ),
            about="A jump after a change of documents or model is worth a look at the answers.",
        ),
        Panel(
            title="Answers that were replaced, and the cache",
            unit="reqps",
            queries=(
                *_rate_by("ragtune_replaced_answers_total", "by"),
                *_rate_by("ragtune_cache_requests_total", "result"),
            ),
            about="A text that failed its checks is replaced by a second try, a quotation or a refusal.",
        ),
        Panel(
            title="Feedback",
            unit="short",
            queries=(Query("sum by (rating) (increase(ragtune_feedback_total[1h]))", "{{rating}}"),),
            about="Verdicts of the last hour.",
        ),
        Panel(
            title="Live model",
            unit="short",
            queries=(Query("max by (version, precision) (ragtune_model_info)", "{{version}} {{precision}}"),),
            about="Version and precision of the model that answers.",
            kind="stat",
        ),
    ),
    "Speed": (
        Panel(
            title="Time to the whole answer",
            unit="s",
            queries=_quantiles("ragtune_request_seconds"),
            about="From the request to the last word.",
        ),
        Panel(
            title="Time to the first token",
            unit="s",
            queries=_quantiles("gen_ai_server_time_to_first_token_seconds"),
            about="Of streamed answers.",
        ),
        Panel(
            title="Time per output token",
            unit="s",
            queries=_quantiles("gen_ai_server_time_per_output_token_seconds"),
            about="Of streamed answers, after the first token.",
        ),
        Panel(
            title="Overhead of the gateway",
            unit="s",
            queries=_quantiles("ragtune_overhead_seconds"),
            about="Time of an answer without the time of the engine: search, prompt, checks.",
        ),
        Panel(
            title="Search",
            unit="ms",
            queries=_quantiles("ragtune_retrieval_milliseconds"),
            about="Search and ranking of evidence.",
        ),
        Panel(
            title="Tokens",
            unit="short",
            queries=(Query(f"sum by (kind) (rate(ragtune_tokens_total{_RATE}))", "{{kind}} per second"),),
            about="Tokens of prompts, which include the passages, and of answers.",
        ),
    ),
    "Engines and machine": (
        Panel(
            title="Engines",
            unit="short",
            queries=(
                Query("ragtune_engine_up", "{{role}} {{model_version}} takes requests"),
                Query("ragtune_engine_requests", "{{role}} {{model_version}} requests"),
            ),
            about="Whether each engine takes requests, and how many it answers now.",
        ),
        Panel(
            title="Queue of the engine",
            unit="short",
            queries=(
                Query("sum by (model_version) (vllm:num_requests_running)", "{{model_version}} running"),
                Query("sum by (model_version) (vllm:num_requests_waiting)", "{{model_version}} waiting"),
            ),
            about="As vLLM counts.",
        ),
        Panel(
            title="Cache of the engine",
            unit="percentunit",
            queries=(
                Query("max by (model_version) (vllm:kv_cache_usage_perc)", "{{model_version}} full"),
                _ratio("vllm:prefix_cache_hits_total", "vllm:prefix_cache_queries_total", "prefix hits"),
            ),
            about="How full the KV cache is, and how many tokens of prompts were in it already.",
        ),
        Panel(
            title="Queues of the gateway",
            unit="short",
            queries=(Query("ragtune_queue_length", "{{queue}}"),),
            about="Questions that wait for a search, and responses that wait for the log.",
        ),
        Panel(
            title="Memory",
            unit="bytes",
            queries=(
                Query("ragtune_memory_bytes", "{{process}}"),
                Query("ragtune_gpu_memory_used_bytes", "GPU {{gpu}}"),
                Query("ragtune_gpu_memory_total_bytes", "GPU {{gpu}}, all"),
            ),
            about="Resident memory of processes, and memory of GPUs.",
        ),
        Panel(
            title="Restarts, refused champions, responses that were lost",
            unit="short",
            queries=(
                Query("ragtune_engine_restarts", "restarts of the live engine"),
                Query("ragtune_champion_refused", "the champion is not served"),
                Query("ragtune_log_dropped", "responses lost"),
            ),
            about="All are 0 as long as all is well.",
        ),
    ),
}
"""{title of a row: its panels}."""


def dashboard() -> dict[str, Any]:
    """Return the dashboard as Grafana imports it; Grafana asks which Prometheus to read."""
    panels: list[dict[str, Any]] = []
    top = 0
    for title, row in ROWS.items():
        place = {"h": 1, "w": 24, "x": 0, "y": top}
        panels.append({"id": len(panels) + 1, "type": "row", "title": title, "gridPos": place, "panels": []})
        top += 1
        for number, panel in enumerate(row):
            line, column = divmod(number, _COLUMNS)
            place = {"h": _HEIGHT, "w": _WIDTH, "x": column * _WIDTH, "y": top + line * _HEIGHT}
            panels.append({"id": len(panels) + 1, "gridPos": place, **_panel(panel)})
        top += -(-len(row) // _COLUMNS) * _HEIGHT
    datasource = {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"}
    return {
        "title": "RagTune",
        "uid": "ragtune",
        "schemaVersion": _SCHEMA,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "tags": ["ragtune"],
        "templating": {"list": [datasource]},
        "panels": panels,
    }


def _panel(panel: Panel) -> dict[str, Any]:
    targets = [
        {"refId": chr(ord("A") + number), "expr": query.expression, "legendFormat": query.legend}
        for number, query in enumerate(panel.queries)
    ]
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.about,
        "datasource": _DATASOURCE,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "options": {"textMode": "name"} if panel.kind == "stat" else {"legend": {"displayMode": "list"}},
        "targets": [{**target, "datasource": _DATASOURCE} for target in targets],
    }
