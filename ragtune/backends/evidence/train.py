"""Trains the evidence model on people's questions: `python -m ragtune.backends.evidence.train QUESTIONS OUT`.

Question and unit are read by the same network, one apart from the other. A checkpoint is written every `--checkpoint`
steps, and a second run continues from it. `make evidence QUESTIONS=DIR` calls this.
"""

import argparse
import json
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ragtune.backends.evidence.lists import TRAINING_FILES, CandidateList, ListMaker, Question, read_questions
from ragtune.backends.evidence.networks import (
    FIRST_NOTHING,
    FIRST_SCALE,
    Tokens,
    encoder,
    towers_loss,
)
from ragtune.backends.minilm import MiniLmEmbedder, minilm_folder
from ragtune.errors import ModelError
from ragtune.ports import Embedder

if TYPE_CHECKING:
    from torch import Tensor

FILE_WEIGHTS = {"fairytale": 0.45, "nq": 0.35, "tydi": 0.2}
"""Share of the lists from each file. Search questions and encyclopaedias are closer to what the product is asked than
stories, of which there are three times as many. Chosen by hand, not measured."""
CHECKPOINT = "towers.pt"
LISTS_PER_STEP = 8
STEPS = 330
"""Steps of the shipped weights: 2,640 lists, less than half of an epoch; more was not tried."""
LEARNING_RATE, WARMUP_SHARE = 3e-4, 0.05
EXTRA_RATE = 3e-3
"""Rate of the scale of the cosine and of the score of "nothing". Chosen by hand, not measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How long the network is trained and where its checkpoints are."""

    steps: int
    folder: Path
    checkpoint_every: int


class Lists:
    """Draws lists from the files by their weights; the draw of a step depends on the seed and the step alone."""

    def __init__(self, questions: Sequence[Question], maker: ListMaker, seed: int) -> None:
        self._by_file: dict[str, list[int]] = {}
        for position, question in enumerate(questions):
            self._by_file.setdefault(question.file, []).append(position)
        self._maker, self._seed = maker, seed

    def of_step(self, step: int) -> list[CandidateList]:
        """Return the lists of one step."""
        draw = random.Random(f"{self._seed} {step}")
        files = sorted(self._by_file)
        chosen = draw.choices(files, [FILE_WEIGHTS[file] for file in files], k=LISTS_PER_STEP)
        return [self._maker.make(draw.choice(self._by_file[file]), draw) for file in chosen]


def train_towers(lists: Lists, folder: Path, plan: Plan) -> None:
    """Train the network in `folder` on the lists; the result is the last checkpoint."""
    import torch

    bert, tokens = encoder(folder), Tokens(folder)
    extra = {"scale": torch.tensor(FIRST_SCALE), "nothing": torch.tensor([FIRST_NOTHING])}
    _train(bert, extra, lambda step: towers_loss(bert, extra, tokens, lists.of_step(step)), plan)


def _train(bert: Any, extra: dict[str, "Tensor"], loss_of: Any, plan: Plan) -> None:
    """Train with AdamW and a linear decay after a warm-up; stop with an error at the first loss that is not finite."""
    import torch

    adapter = [parameter for parameter in bert.parameters() if parameter.requires_grad]
    for tensor in extra.values():
        tensor.requires_grad_(True)
    groups = [{"params": adapter, "lr": LEARNING_RATE}, {"params": list(extra.values()), "lr": EXTRA_RATE}]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.01)
    warmup = max(1, round(WARMUP_SHARE * plan.steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warmup, max(0.0, (plan.steps - step) / (plan.steps - warmup)))
    )
    file = plan.folder / CHECKPOINT
    first = 0
    if file.is_file():
        state = torch.load(file, weights_only=True)
        restore(bert, extra, state)
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        first = state["step"]
    bert.train()
    started, recent = time.monotonic(), []
    for step in range(first, plan.steps):
        loss = loss_of(step)
        if not torch.isfinite(loss):
            raise ModelError(f"The loss of step {step} is {loss.item()}.", "a finite number")
        loss.backward()
        torch.nn.utils.clip_grad_norm_([*adapter, *extra.values()], 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        recent.append(loss.item())
        if (step + 1) % plan.checkpoint_every == 0 or step + 1 == plan.steps:
            line = {"step": step + 1, "loss": sum(recent) / len(recent)}
            line["seconds"] = round(time.monotonic() - started, 1)
            with (plan.folder / "log.jsonl").open("a") as log:
                log.write(json.dumps(line) + "\n")
            recent = []
            _save(file, bert, extra, optimizer, schedule, step + 1)


def _save(file: Path, bert: Any, extra: dict[str, "Tensor"], optimizer: Any, schedule: Any, step: int) -> None:
    import torch

    adapter = {name: value.detach() for name, value in bert.named_parameters() if value.requires_grad}
    state = {"adapter": adapter, "extra": {name: value.detach() for name, value in extra.items()}, "step": step}
    partial = file.with_suffix(".partial")
    torch.save({**state, "optimizer": optimizer.state_dict(), "schedule": schedule.state_dict()}, partial)
    partial.replace(file)


def restore(bert: Any, extra: dict[str, "Tensor"], state: dict[str, Any]) -> None:
    """Copy the tensors of a checkpoint into a network and its further parameters."""
    import torch

    with torch.no_grad():
        for name, value in bert.named_parameters():
            if value.requires_grad:
                value.copy_(state["adapter"][name])
        for name, tensor in extra.items():
            tensor.copy_(state["extra"][name])


def train(questions: Path, out: Path, folder: Path, embedder: Embedder, options: argparse.Namespace) -> None:
    """Train on the questions; the checkpoints in `out` say how far an interrupted run came."""
    import torch

    torch.manual_seed(options.seed)
    out.mkdir(parents=True, exist_ok=True)
    asked = read_questions(questions, TRAINING_FILES, "train")
    lists = Lists(asked, ListMaker(asked, embedder), options.seed)
    train_towers(lists, folder, Plan(steps=options.steps, folder=out, checkpoint_every=options.checkpoint))


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("questions", type=Path, help="folder with fairytale, nq and tydi as NAME.jsonl.gz")
    parser.add_argument("out", type=Path, help="folder for checkpoints")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--checkpoint", type=int, default=50)
    parser.add_argument("--seed", type=int, default=17)
    options = parser.parse_args()
    train(options.questions, options.out, minilm_folder(), MiniLmEmbedder(), options)


if __name__ == "__main__":
    main()
