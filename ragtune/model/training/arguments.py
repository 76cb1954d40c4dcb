"""Turns the settings of a training into the arguments of TRL and PEFT."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ragtune.errors import SettingsError
from ragtune.model.base.capacity import arithmetic
from ragtune.model.examples.preferences import Method
from ragtune.model.training.checkpoints import KEPT
from ragtune.model_settings import PreferenceSettings, TrainingSettings

ALL_LINEAR = "all-linear"
"""PEFT's word for all linear layers but the output layer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PreferencePlan:
    """What a preference training does by its data: KTO or DPO, its steps, and the weight of unwanted answers in KTO."""

    method: Method
    batch_size: int
    steps: int
    undesirable_weight: float
    device: str


def lora_config(settings: TrainingSettings, model: Any) -> Any:
    """Return PEFT's configuration of the adapter; raise SettingsError if the model has no layer of a name."""
    from peft import LoraConfig

    return LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        use_rslora=settings.use_rslora,
        use_dora=settings.use_dora,
        target_modules=_checked(settings.target_modules, model) or ALL_LINEAR,
        task_type="CAUSAL_LM",
    )


def _checked(names: Sequence[str], model: Any) -> list[str]:
    from torch.nn import Linear

    layers = {name.rpartition(".")[2] for name, layer in model.named_modules() if isinstance(layer, Linear)}
    if unknown := sorted(set(names) - layers):
        raise SettingsError(
            f"training.target_modules has {', '.join(unknown)}, which are no linear layers of this model.",
            expected=f"some of {', '.join(sorted(layers))}, or nothing for all of them",
            fix="correct training.target_modules",
        )
    return list(names)


def computes_in_the_adapters_format(settings: TrainingSettings) -> bool:
    """Return whether `kernels.fuse_adapters` computes all adapters, which convert to bf16 themselves."""
    return not settings.dropout and not settings.use_dora


def trl_arguments(
    settings: TrainingSettings, seed: int, checkpoints: Path, device: str, batch_size: int, steps: int
) -> Any:
    """Return TRL's arguments for `steps` steps of `batch_size` rows a pass, of all processes together."""
    from trl.trainer.sft_config import SFTConfig

    arguments = SFTConfig(
        **_common(settings, seed, checkpoints, device),
        per_device_train_batch_size=batch_size // settings.processes,
        per_device_eval_batch_size=batch_size,
        gradient_accumulation_steps=settings.gradient_accumulation_steps,
        max_steps=steps,
        learning_rate=settings.learning_rate,
        save_steps=settings.checkpoint_every,
    )
    return on_one_device(arguments)


def preference_arguments(
    training: TrainingSettings, preference: PreferenceSettings, plan: PreferencePlan, seed: int, checkpoints: Path
) -> Any:
    """Return TRL's arguments for KTO or DPO: optimiser and arithmetic of SFT, the rest of the section `preference`."""
    from trl.trainer.dpo_config import DPOConfig
    from trl.trainer.kto_config import KTOConfig

    own: dict[str, Any] = {
        "per_device_train_batch_size": plan.batch_size,
        "max_steps": plan.steps,
        "learning_rate": preference.learning_rate,
        "save_steps": preference.checkpoint_every,
        "beta": preference.beta,
        # The reference is the model after SFT. Its numbers are computed once, before the first step.
        "precompute_ref_log_probs": True,
    }
    common = _common(training, seed, checkpoints, plan.device)
    if plan.method == "dpo":
        return on_one_device(DPOConfig(**common, **own))
    weights = {"desirable_weight": preference.desirable_weight, "undesirable_weight": plan.undesirable_weight}
    return on_one_device(KTOConfig(**common, **own, **weights))


def on_one_device(arguments: Any) -> Any:
    """Return the arguments for one device a process, however many GPUs the machine has.

    A process that sees several would split each batch over them by DataParallel, which multiplies the batch and mixes
    the planned order of the rows; `training.processes` is the way to use them.
    """
    arguments._n_gpu = min(1, arguments.n_gpu)
    return arguments


def _common(settings: TrainingSettings, seed: int, checkpoints: Path, device: str) -> dict[str, Any]:
    """Return the arguments that all trainers of TRL have and that mean the same in each."""
    return {
        "output_dir": str(checkpoints),
        "optim": settings.optimizer,
        "weight_decay": settings.weight_decay,
        "max_grad_norm": settings.max_grad_norm,
        "max_length": None,
        # Adapters are in float32. PEFT's own layers need autocast to compute in bf16.
        "bf16": not computes_in_the_adapters_format(settings) and arithmetic(device) == "bfloat16",
        "use_cpu": device == "cpu",
        "gradient_checkpointing": settings.gradient_checkpointing,
        "remove_unused_columns": False,
        # `batch_order` has already decided the order of the rows.
        "train_sampling_strategy": "sequential",
        "dataloader_pin_memory": device == "cuda",
        "dataloader_drop_last": False,
        # Every weight of an adapter gets a gradient in every step.
        "ddp_find_unused_parameters": False,
        "logging_steps": 1,
        # A loss that is not finite must be seen: by default it is replaced by the mean of those before.
        "logging_nan_inf_filter": False,
        "save_strategy": "steps",
        "save_total_limit": KEPT,
        "prediction_loss_only": True,
        "report_to": "none",
        "disable_tqdm": True,
        "seed": seed,
    }
