"""Loads the model and the tokenizer of a checked model folder."""

from pathlib import Path
from typing import Any

from ragtune.errors import ModelError
from ragtune.model.base.capacity import arithmetic


def load_tokenizer(folder: Path) -> Any:
    """Return the tokenizer; raise ModelError if it has no chat template, as that of a plain language model."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    if tokenizer.chat_template is None:
        raise ModelError(
            f"The tokenizer in {folder} has no chat template.",
            expected="an instruction model, such as SmolLM2-135M-Instruct or Llama-3-8B-Instruct",
            fix="choose the instruction-tuned version of the model",
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(folder: Path, device: str = "cpu", attention: str = "sdpa") -> Any:
    """Return the causal language model on the device, in the device's fastest number format, with frozen weights."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=getattr(torch, arithmetic(device)), local_files_only=True, attn_implementation=attention
    )
    return model.requires_grad_(False).to(device)
