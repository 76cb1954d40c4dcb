"""Checks PromQL expressions against the text of a real scrape."""

import re
from collections.abc import Iterator

import promql_parser
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

MADE_BY_PROMETHEUS = {"up"}
"""Metrics that Prometheus adds to every scrape."""


class Scrape:
    """The samples of one `/metrics`."""

    def __init__(self, text: str) -> None:
        samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
        self.samples: dict[str, list[Sample]] = {}
        for sample in samples:
            self.samples.setdefault(sample.name, []).append(sample)

    def problems(self, expression: str) -> list[str]:
        """Return what of an expression is not in the scrape: series, and labels that series are grouped by."""
        tree = promql_parser.parse(expression.replace("$__rate_interval", "5m"))
        return list(self._problems(tree))

    def _problems(self, node) -> Iterator[str]:
        if isinstance(node, promql_parser.VectorSelector):
            if node.name not in MADE_BY_PROMETHEUS and not self._selected(node):
                yield f"nothing matches {node.prettify()}"
        elif isinstance(node, promql_parser.AggregateExpr):
            yield from self._problems(node.expr)
            labels = set(node.modifier.labels) if node.modifier else set()
            for selector in selectors(node.expr):
                for sample in self._selected(selector):
                    if missing := labels - set(sample.labels):
                        yield f"{selector.name} has no label {sorted(missing)}"
                        break
        else:
            for child in children(node):
                yield from self._problems(child)

    def _selected(self, selector) -> list[Sample]:
        matchers = selector.matchers.matchers
        return [s for s in self.samples.get(selector.name, []) if all(_matches(m, s.labels) for m in matchers)]


def _matches(matcher, labels: dict[str, str]) -> bool:
    value, operator = labels.get(matcher.name, ""), str(matcher.op).rpartition(".")[2]
    return {
        "Equal": value == matcher.value,
        "NotEqual": value != matcher.value,
        "Re": re.fullmatch(matcher.value, value) is not None,
        "NotRe": re.fullmatch(matcher.value, value) is None,
    }[operator]


def children(node) -> list:
    if isinstance(node, promql_parser.BinaryExpr):
        return [node.lhs, node.rhs]
    if isinstance(node, promql_parser.Call):
        return list(node.args)
    if isinstance(node, promql_parser.MatrixSelector):
        return [node.vector_selector]
    return [node.expr] if hasattr(node, "expr") else []


def selectors(node) -> Iterator:
    if isinstance(node, promql_parser.VectorSelector):
        yield node
    for child in children(node):
        yield from selectors(child)


def metrics_of(expression: str) -> set[str]:
    """Return the names of the metrics in an expression."""
    tree = promql_parser.parse(expression.replace("$__rate_interval", "5m"))
    return {selector.name for selector in selectors(tree)}
