"""Bytes of a Llama's weights in each format, computed from the shapes in its configuration.

Run: python -m benchmarks.default_model.sizes
"""

from collections.abc import Mapping
from typing import Any

from ragtune.model_settings import QuantizationSettings

LLAMA_3_8B: Mapping[str, Any] = {
    "vocab_size": 128256,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "tie_word_embeddings": False,
}
"""Shapes of Meta-Llama-3-8B-Instruct, from its config.json."""
SETTINGS_8B = QuantizationSettings(group_size=128, symmetric=True)
"""As in the profile `llama3-8b`."""


def expected_bytes(config: Mapping[str, Any], settings: QuantizationSettings = SETTINGS_8B) -> dict[str, int]:
    """Return the bytes of all weights: `bf16`, `w8a8`, `w4a16`, and both with the output layer in 8 bits.

    Embedding, norms and, unless named, the output layer stay in bf16. INT8 has a bf16 scale per row. INT4 has a bf16
    scale per group and, if it is asymmetric, a zero point of 4 bits.
    """
    layers = linear_shapes(config)
    vocabulary = config["vocab_size"] * config["hidden_size"]
    output = 0 if config["tie_word_embeddings"] else vocabulary
    rest = 2 * (vocabulary + (2 * config["num_hidden_layers"] + 1) * config["hidden_size"])
    weights = sum(rows * columns for rows, columns in layers)
    int8 = weights + 2 * sum(rows for rows, _ in layers)
    per_group = 2.0 if settings.symmetric else 2.5
    int4 = int(weights / 2 + weights / settings.group_size * per_group)
    sizes = {name: size + rest + 2 * output for name, size in (("bf16", 2 * weights), ("w8a8", int8), ("w4a16", int4))}
    if output:
        saved = 2 * output - output - 2 * config["vocab_size"]
        sizes |= {f"{name} and output": sizes[name] - saved for name in ("w8a8", "w4a16")}
    return sizes


def linear_shapes(config: Mapping[str, Any]) -> list[tuple[int, int]]:
    """Return (rows, columns) of every linear layer of the decoder."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    width = config.get("head_dim") or hidden // config["num_attention_heads"]
    queries, keys = config["num_attention_heads"] * width, config["num_key_value_heads"] * width
    block = [(queries, hidden), (keys, hidden), (keys, hidden), (hidden, queries)]
    block += [(inner, hidden), (inner, hidden), (hidden, inner)]
    return block * int(config["num_hidden_layers"])


if __name__ == "__main__":
    sizes = expected_bytes(LLAMA_3_8B)
    for name, size in sizes.items():
        print(f"{name:18} {size / 1e9:6.2f} GB, {1 - size / sizes['bf16']:.1%} smaller")
