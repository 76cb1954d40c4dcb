"""Error analysis of a quantised model: what each layer loses, and how the predictions change token by token.

The numbers on tokens are those of llama.cpp's `llama-perplexity --kl-divergence`: KL divergence with its tail, same top
token, and the change of the probability of the token that stands in the text.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ragtune.errors import ModelError
from ragtune.model.base.capacity import ANY_MACHINE, GIB, Machine, chosen_device, require_memory, use_threads
from ragtune.model.base.conversations import Conversation, render_chat
from ragtune.model.base.loading import load_model, load_tokenizer
from ragtune.model.compression.weights import GPTQ, storage_format, unpack_w4a16
from ragtune.model_settings import Precision
from ragtune.ports import Progress, silent

PERCENTILES = (50.0, 90.0, 95.0, 99.0, 99.9, 100.0)
"""Percentiles of the KL divergence; the last is the maximum."""
_MEMORY_PER_WEIGHT = 3
"""Both models and what one pass stores, in multiples of the bf16 weights. Chosen by hand, not measured."""
_WORST = 5
"""Prompts that are shown."""
_Z = 1.96
"""Of a 95% interval of a share, by the normal approximation: there are thousands of tokens."""


@dataclass(frozen=True, slots=True)
class LayerError:
    """Signal-to-quantisation-noise ratios of a layer in decibels, of its weight and of its output; inf: no error.

    10 dB mean that the error has a tenth of the energy. The inputs are those of the unquantised model, so errors of
    earlier layers do not count.
    """

    name: str
    weight_db: float
    output_db: float


@dataclass(frozen=True, slots=True)
class PromptError:
    """The mean KL divergence of the tokens of one conversation, and its last user message."""

    question: str
    kl: float


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizationErrors:
    """How a quantised model differs from the unquantised one on the same conversations.

    KL divergences are in nats per token. `answer_kl` is the mean over the tokens of the answers alone. `same_top` is
    the share of tokens for which both models expect the same one, with its 95% interval. `change` is the mean change of
    the probability of the token in the text, and `change_rms` the root of the mean of its square. `perplexity_ratio` is
    the quantised model's perplexity over the other one's. Layers are in the order of the model, prompts worst first.
    """

    precision: Precision
    tokens: int
    mean_kl: float
    answer_kl: float
    percentiles: tuple[tuple[float, float], ...]
    same_top: float
    same_top_low: float
    same_top_high: float
    change: float
    change_rms: float
    perplexity_ratio: float
    layers: tuple[LayerError, ...]
    worst: tuple[PromptError, ...]


def quantization_errors(
    original: Path,
    quantized: Path,
    precision: Precision,
    conversations: Sequence[Conversation],
    machine: Machine = ANY_MACHINE,
    progress: Progress = silent,
) -> QuantizationErrors:
    """Return what quantisation changed, measured on whole conversations of the original model's chat format.

    Both models are in memory at once. Raises ModelError if there are no conversations or a model has other layers.
    """
    import torch

    if not conversations:
        raise ModelError("There are no conversations to compare models on.", expected="validation conversations")
    use_threads(machine.threads)
    device = chosen_device(machine.device)
    size = sum(path.stat().st_size for path in original.glob("*.safetensors"))
    require_memory(_MEMORY_PER_WEIGHT * size + GIB, "Comparing the models", device)
    tokenizer = load_tokenizer(original)
    before, after = load_model(original, device), _loaded(quantized, device)
    layers = _LayerErrors(before, after)
    parts, prompts = [], []
    for done, conversation in enumerate(conversations):
        progress(f"comparing {precision} with bf16", done, len(conversations))
        ids, answer_start = _tokens(tokenizer, conversation)
        batch = torch.tensor([ids], device=device)
        with torch.inference_mode():
            with layers.watching():
                plain = before(batch).logits[0, :-1]
            tokens = _token_errors(plain, after(batch).logits[0, :-1], batch[0, 1:], answer_start)
        parts.append(tokens)
        prompts.append(PromptError(conversation.messages[-2].content, float(tokens.kl.mean())))
    progress(f"comparing {precision} with bf16", len(conversations), len(conversations))
    return _summary(precision, parts, layers.errors(), sorted(prompts, key=lambda prompt: -prompt.kl)[:_WORST])


def _tokens(tokenizer: Any, conversation: Conversation) -> tuple[list[int], int]:
    """Return the tokens of a conversation, and the position of the first token of its answer."""
    prompt = render_chat(tokenizer, conversation.messages[:-1], open_reply=True)
    whole = render_chat(tokenizer, conversation.messages)
    ids: list[int] = tokenizer(whole, add_special_tokens=False)["input_ids"]
    return ids, len(tokenizer(prompt, add_special_tokens=False)["input_ids"])


@dataclass(frozen=True, slots=True)
class _Tokens:
    """Numbers of each token: KL, same top token, log-probabilities of the right token, whether it is in the answer."""

    kl: Any
    same: Any
    before: Any
    after: Any
    answer: Any


def _token_errors(plain: Any, rounded: Any, targets: Any, answer_start: int) -> _Tokens:
    """Return the numbers of each token; logits are (tokens, vocabulary), targets (tokens)."""
    import torch

    p, q = (torch.log_softmax(logits.float(), dim=-1) for logits in (plain, rounded))
    return _Tokens(
        kl=(p.exp() * (p - q)).sum(-1).clamp(min=0).cpu(),  # rounding may give -1e-8
        same=(p.argmax(-1) == q.argmax(-1)).cpu(),
        before=p.gather(1, targets[:, None])[:, 0].cpu(),
        after=q.gather(1, targets[:, None])[:, 0].cpu(),
        answer=torch.arange(1, len(targets) + 1) >= answer_start,
    )


def _summary(
    precision: Precision, parts: Sequence[_Tokens], layers: Sequence[LayerError], worst: Sequence[PromptError]
) -> QuantizationErrors:
    import torch

    kl, same, before, after, answer = (
        torch.cat([getattr(part, name) for part in parts]) for name in ("kl", "same", "before", "after", "answer")
    )
    change = after.exp() - before.exp()
    share = float(same.float().mean())
    margin = _Z * math.sqrt(share * (1 - share) / len(same))
    return QuantizationErrors(
        precision=precision,
        tokens=len(kl),
        mean_kl=float(kl.mean()),
        answer_kl=float(kl[answer].mean()),
        percentiles=tuple((p, float(torch.quantile(kl, p / 100))) for p in PERCENTILES),
        same_top=share,
        same_top_low=max(0.0, share - margin),
        same_top_high=min(1.0, share + margin),
        change=float(change.mean()),
        change_rms=float(change.square().mean().sqrt()),
        perplexity_ratio=math.exp(float((before - after).mean())),
        layers=tuple(layers),
        worst=tuple(worst),
    )


class _LayerErrors:
    """Adds up the signal and the noise of every linear layer, each with the inputs of the unquantised model."""

    def __init__(self, before: Any, after: Any) -> None:
        import torch

        self.before = {n: m for n, m in before.named_modules() if isinstance(m, torch.nn.Linear) and n != "lm_head"}
        self.after = {name: module for name, module in after.named_modules() if name in self.before}
        if missing := sorted(self.before.keys() - self.after.keys()):
            raise ModelError(f"The quantised model lacks {len(missing)} layers, such as {missing[0]}.")
        self.energies = {name: [0.0, 0.0] for name in self.before}

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Compare the outputs of the layers during a pass of the unquantised model."""
        hooks = [module.register_forward_hook(self._hook(name)) for name, module in self.before.items()]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _hook(self, name: str) -> Any:
        def add(_: Any, inputs: tuple[Any, ...], output: Any) -> None:
            rounded = self.after[name](inputs[0])
            energies = self.energies[name]
            energies[0] += float(output.float().square().sum())
            energies[1] += float((output.float() - rounded.float()).square().sum())

        return add

    def errors(self) -> list[LayerError]:
        """Return the ratios of all layers."""
        return [LayerError(name, self._weight_db(name), _decibels(*self.energies[name])) for name in self.before]

    def _weight_db(self, name: str) -> float:
        weight = self.before[name].weight.float()
        return _decibels(float(weight.square().sum()), float((weight - self.after[name].weight.float()).square().sum()))


def _loaded(folder: Path, device: str) -> Any:
    """Return a quantised model whose layers have the weights that they stand for."""
    import torch

    with TemporaryDirectory() as scratch:
        # transformers reads AutoGPTQ's layout only with another package.
        readable = unpack_w4a16(folder, Path(scratch) / "unpacked") if storage_format(folder) == GPTQ else folder
        model = load_model(readable, device)
    with torch.inference_mode():
        model(torch.tensor([[0]], device=device))  # compressed-tensors unpacks the weights on the first pass
    return model


def _decibels(signal: float, noise: float) -> float:
    return 10 * math.log10(signal / noise) if signal and noise else math.inf
