"""Keeps text that looks like a control token of a chat format from becoming one."""

import re

_CONTROL_TOKEN = re.compile(
    r"<(?=[|｜][^|｜<>\s]{1,40}[|｜]>)"  # <|im_end|>, <|eot_id|>, <|endoftext|>: ChatML, Llama 3, Phi, DeepSeek
    r"|<(?=/?s>|(?:bos|eos|pad|unk)>)"  # </s>: Llama 2, Mistral, Gemma
    r"|<(?=(?:start|end)_of_turn>)"  # Gemma
    r"|\[(?=/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS)\])|<(?=</?SYS>>)"  # Llama 2, Mistral
)


def break_control_tokens(text: str) -> str:
    """Return the text with a space inside everything that chat formats use as a control token.

    A tokenizer turns `<|im_end|>` into the token that ends a turn, wherever it stands. In a question or a document
    that would forge or cut turns. `< |im_end|>` reads the same and is plain text.
    """
    return _CONTROL_TOKEN.sub(lambda match: f"{match[0]} ", text)
