"""A vLLM plugin that runs inside the engine: it makes sampling right where tokens are guessed on a CPU.

vLLM 0.32 computes the temperature of each guessed token in a copy that it drops, so a batch with one request above
temperature 0 divides all its logits by what happens to stand in memory, and every answer of the batch is noise
(docs/decisions/sampling-with-guessed-tokens.md). The engine finds the plugin by the folder next to this file, which
`VllmEngine.environment` puts on its path.
"""

from typing import Any


def fix_sampling() -> None:
    """Register our function in place of vLLM's; where Triton runs, vLLM's own kernel is right and stays."""
    from vllm.triton_utils import HAS_TRITON
    from vllm.triton_utils.dispatcher import register_kernels
    from vllm.utils import cpu_triton_utils

    if not HAS_TRITON:
        # The first line counts if vLLM registers its functions after this one, the second if before.
        cpu_triton_utils._expand_kernel_impl = expand_to_tokens
        register_kernels({"vllm.v1.sample.rejection_sampler.expand_kernel": expand_to_tokens})


def expand_to_tokens(
    output: Any,
    input_val: Any,
    cu_num_tokens: Any,
    replace_from: float,
    replace_to: float,
    MAX_NUM_TOKENS: Any = None,  # noqa: ARG001, N803 (vLLM passes it by this name)
) -> None:
    """Fill `output`, shape (tokens,), with each request's value of `input_val`, shape (requests,), once per token.

    `cu_num_tokens`, shape (requests,), counts the tokens up to and with each request. A value that equals
    `replace_from` becomes `replace_to`. Names and order are those of vLLM's kernel.
    """
    counts = cu_num_tokens.diff(prepend=cu_num_tokens.new_zeros(1))
    values = input_val.masked_fill(input_val == replace_from, replace_to)
    output.copy_(values.repeat_interleave(counts))
