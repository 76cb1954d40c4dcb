"""The settings of the model: its base, its training and its quantisation."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Section(BaseModel):
    """A group of settings. An unknown name is an error that lists the valid ones."""

    model_config = ConfigDict(extra="forbid", frozen=True)


Precision = Literal["bf16", "w4a16", "w8a8", "awq", "mixed"]
"""The formats of a model's weights."""


class BaseModelSettings(Section):
    """The base model: `smollm2` (packaged, trained to read and cite), `smollm2-raw`, a folder, or a hub name."""

    name: str = "smollm2"
    allow_download: bool = False


class TrainingSettings(Section):
    """LoRA training with TRL, in at most `max_steps` and `max_epochs`.

    The speed of the first steps fixes how many steps fit into `minutes`; from there on only steps count. Fields have
    the names of transformers and PEFT if there is one. The defaults fit the packaged model on two cores; the profile
    `llama3-8b` of `ragtune init` has those for Llama 3 8B on a GPU.
    """

    minutes: float = Field(5.0, gt=0)
    steps: int = Field(0, ge=0, description="steps to take, such as those that an earlier run logged; 0: by minutes")
    max_steps: int = Field(400, ge=1)
    max_epochs: float = Field(4.0, gt=0)
    learning_rate: float = Field(3e-4, gt=0, description="peak; 1e-3 for a base model that was never trained to cite")
    lr_scheduler_type: Literal["linear", "cosine", "constant_with_warmup"] = "linear"
    warmup_share: float = Field(0.05, gt=0, lt=1)
    optimizer: Literal["adamw_torch_fused", "adamw_torch", "adafactor", "adagrad", "rmsprop", "sgd"] = (
        "adamw_torch_fused"
    )
    weight_decay: float = Field(0.0, ge=0)
    max_grad_norm: float = Field(1.0, ge=0, description="longer gradients are shortened to this norm; 0: never")
    rank: int = Field(16, ge=1)
    alpha: int = Field(32, ge=1)
    use_rslora: bool = Field(False, description="scale the adapter by alpha / sqrt(rank), for high ranks")
    use_dora: bool = Field(False, description="learn the length of each weight row separately (DoRA)")
    target_modules: tuple[str, ...] = Field((), description="layers that get an adapter; empty: all linear layers")
    start_from: str = Field("", description="folder of an adapter of the same base model to continue from")
    dropout: float = Field(0.0, ge=0, lt=1)
    batch_size: int = Field(4, ge=1, description="rows per pass; a row holds one prompt, or several if packed")
    gradient_accumulation_steps: int = Field(1, ge=1, description="passes whose gradients make one step")
    processes: int = Field(1, ge=1, description="processes that share the rows of a pass: one for each GPU")
    together: int = Field(8, ge=1, description="questions that share one prompt; 1: one prompt per question")
    packing: bool = Field(False, description="several prompts per row up to max_tokens; they do not see each other")
    max_tokens: int = Field(1024, ge=64)
    replay_share: float = Field(0.2, ge=0, lt=1, description="share of examples with questions about unrelated topics")
    checkpoint_every: int = Field(20, ge=1)
    validation_examples: int = Field(32, ge=0, description="examples whose loss is measured at each validation")
    eval_every: int = Field(40, ge=0, description="steps between two validations; 0: only after the last step")
    eval_answers: int = Field(0, ge=0, description="validation questions that the model answers at each validation")
    metric_for_best_model: Literal["loss", "right"] = Field(
        "loss", description="what the kept adapter is best at; right: share of right answers"
    )
    early_stopping_patience: int = Field(0, ge=0, description="validations without a better one that end it; 0: never")
    gradient_checkpointing: bool = Field(False, description="slower, needs less memory: for large models on a GPU")
    qat: bool = Field(False, description="round the weights to INT4 on every pass, as `w4a16` will be: for INT4 alone")

    @model_validator(mode="after")
    def _qat_is_possible(self) -> "TrainingSettings":
        if self.qat and (self.dropout or self.use_dora):
            raise ValueError("qat rounds plain LoRA only: set dropout: 0 and use_dora: false, or qat: false")
        return self

    @model_validator(mode="after")
    def _right_needs_answers(self) -> "TrainingSettings":
        if self.metric_for_best_model == "right" and not (self.eval_every and self.eval_answers):
            raise ValueError("metric_for_best_model: right needs answers: set eval_every and eval_answers above 0")
        return self

    @model_validator(mode="after")
    def _processes_share_a_batch(self) -> "TrainingSettings":
        if self.batch_size % self.processes:
            raise ValueError(
                f"batch_size: {self.batch_size} cannot be shared by {self.processes} processes: "
                "set batch_size to a multiple of processes"
            )
        return self

    @property
    def rows_per_step(self) -> int:
        """Rows that one step learns."""
        return self.batch_size * self.gradient_accumulation_steps


class PreferenceSettings(Section):
    """Preference training by TRL after SFT, from thumbs (KTO) or corrections (DPO).

    Fields have the names of TRL if there is one. It is off, because what it brings was not measured yet
    (docs/decisions/preferences-after-sft.md).
    """

    enabled: bool = False
    method: Literal["auto", "kto", "dpo"] = Field(
        "auto", description="kto: thumbs and corrections; dpo: corrections; auto: dpo if thumbs are no more than those"
    )
    min_examples: int = Field(50, ge=2, description="rated answers for kto, corrections for dpo; fewer: no training")
    thumbs_from: tuple[str, ...] = Field((), description="keys whose thumbs train while feedback.approval is on")
    # The default of TRL and of both papers, https://arxiv.org/abs/2305.18290 and https://arxiv.org/abs/2402.01306.
    beta: float = Field(0.1, gt=0, description="how strongly the model is held near the one after SFT")
    desirable_weight: float = Field(1.0, gt=0, description="weight of wanted answers in kto")
    undesirable_weight: float = Field(
        0.0, ge=0, description="weight of unwanted answers in kto; 0: both kinds weigh the same"
    )
    learning_rate: float = Field(1e-5, gt=0, description="peak; ten times TRL's, which is for all weights, not LoRA")
    batch_size: int = Field(4, ge=2, description="examples per step; kto compares those of one step")
    max_steps: int = Field(100, ge=1)
    max_epochs: float = Field(1.0, gt=0)
    replay_share: float = Field(0.5, ge=0, lt=1, description="share of a step's rows that are conversations of SFT")
    replay_weight: float = Field(1.0, ge=0, description="weight of their loss")
    checkpoint_every: int = Field(20, ge=1)


class QuantizationSettings(Section):
    """INT4 by GPTQ (`w4a16`) and INT8 (`w8a8`) are made from the merged model, and what `also` names.

    `awq` is INT4 by AWQ; `mixed` keeps the layers in 8 bits that lose most in 4, up to a size. `serve` picks the one to
    serve.
    """

    serve: Literal["auto"] | Precision = "auto"
    also: tuple[Literal["awq", "mixed"], ...] = ()
    mixed_size: float = Field(0.5, gt=0, lt=1, description="size of `mixed`, as a share of bf16")
    format: Literal["compressed-tensors", "gptq"] = Field(
        "compressed-tensors", description="layout of `w4a16`; gptq: that of AutoGPTQ and GPTQModel, symmetric only"
    )
    smaller_by: float = Field(0.4, ge=0, lt=1, description="least share of the bf16 size that INT4 must save")
    lost_at_most: float = Field(0.02, gt=0, description="loss of evaluation.metric that stops the release once shown")
    group_size: int = Field(32, ge=16)
    symmetric: bool = False
    calibration_samples: int = Field(64, ge=1)

    @model_validator(mode="after")
    def _format_is_possible(self) -> "QuantizationSettings":
        if self.format == "gptq" and not self.symmetric:
            raise ValueError("the layout gptq has no zero points that engines read: set symmetric: true")
        return self

    @model_validator(mode="after")
    def _served_is_made(self) -> "QuantizationSettings":
        if self.serve in ("awq", "mixed") and self.serve not in self.also:
            raise ValueError(f"serve: {self.serve} is not made: add it to quantization.also")
        return self
