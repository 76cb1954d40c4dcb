"""Tests of how the evidence model is trained: lists, loss, checkpoints, export."""

import gzip
import json
import random
from pathlib import Path

import numpy as np
import pytest

from ragtune.answer.units import text_units
from ragtune.backends.evidence.export import export
from ragtune.backends.evidence.lists import CandidateList, ListMaker, Question, read_questions, right_units
from ragtune.backends.evidence.networks import FIRST_NOTHING, FIRST_SCALE, Tokens, encoder, towers_loss
from ragtune.backends.evidence.train import CHECKPOINT, FILE_WEIGHTS, Lists
from ragtune.backends.minilm import MiniLmEmbedder, minilm_folder
from ragtune.errors import DatasetError, ModelError
from tests.support.counting_embedder import CountingEmbedder

CONTEXT = "Old Mill opened in 1901. The miller was Ada Brook. It closed in 1954."
ROW = {"title": "Old Mill", "context": CONTEXT, "question": "Who was the miller?", "answer": "Ada Brook"}
OTHER = {
    "title": "New Mill",
    "context": "New Mill opened in 1955. The miller was Tom Hill.",
    "question": "When did New Mill open?",
    "answer": "1955",
}


def write(folder: Path, *rows: dict[str, str]) -> None:
    lines = "\n".join(json.dumps({"split": "train", **row}) for row in rows)
    (folder / "nq.jsonl.gz").write_bytes(gzip.compress(lines.encode()))


def questions(folder: Path) -> list[Question]:
    write(folder, ROW, OTHER, {**ROW, "split": "dev"})
    return read_questions(folder, ["nq"], "train")


def test_questions_have_the_units_of_their_passage_and_the_right_one(tmp_path: Path):
    first, second = questions(tmp_path)
    assert [unit.text for unit in first.units] == CONTEXT.replace(". ", ".|").split("|")
    assert (first.right, second.right) == (frozenset({1}), frozenset({0}))


def test_the_right_unit_holds_the_first_occurrence_of_the_answer():
    context = "It is red. It is blue. It is red."
    assert right_units(text_units(context), context, "red") == frozenset({0})
    assert right_units(text_units(context), context, "blue. It") == frozenset()


def test_a_missing_file_or_field_is_an_error(tmp_path: Path):
    with pytest.raises(DatasetError, match=r"no file .*nq\.jsonl\.gz"):
        read_questions(tmp_path, ["nq"], "train")
    write(tmp_path, {"title": "Old Mill"})
    with pytest.raises(DatasetError, match=r"Line 1 of .* lacks context, question, answer"):
        read_questions(tmp_path, ["nq"], "train")


def made(folder: Path) -> list[CandidateList]:
    maker = ListMaker(questions(folder), CountingEmbedder())
    return [maker.make(0, random.Random(seed)) for seed in range(60)]


def test_most_lists_have_one_right_candidate_and_some_have_none(tmp_path: Path):
    right = [sum(item.right) for item in made(tmp_path)]
    assert set(right) == {0, 1}
    assert 0.1 < right.count(0) / len(right) < 0.45  # 0.25 of 60, by chance


def test_a_list_has_units_of_other_passages_and_swapped_names(tmp_path: Path):
    candidates = {text for item in made(tmp_path) for text in item.candidates}
    assert "New Mill: The miller was Tom Hill." in candidates
    assert not any(right and "Ada Brook" not in text for item in made(tmp_path) for text, right in pairs(item))


def pairs(item: CandidateList) -> list[tuple[str, bool]]:
    return list(zip(item.candidates, item.right, strict=True))


def test_questions_are_sometimes_typed_without_a_question_mark_or_with_a_mistake(tmp_path: Path):
    typed = {item.question for item in made(tmp_path)}
    assert {"Who was the miller?", "Who was the miller"} < typed


def test_the_lists_of_a_step_depend_on_seed_and_step_alone(tmp_path: Path):
    asked = questions(tmp_path)
    maker = ListMaker(asked, CountingEmbedder())
    lists, again = Lists(asked, maker, 17), Lists(asked, maker, 17)
    assert lists.of_step(3) == again.of_step(3)
    assert lists.of_step(3) != lists.of_step(4)
    assert sum(FILE_WEIGHTS.values()) == pytest.approx(1.0)


def test_a_step_down_the_gradient_lowers_the_loss():
    import torch

    torch.manual_seed(0)
    bert, tokens = encoder(minilm_folder()), Tokens(minilm_folder())
    extra = {"scale": torch.tensor(FIRST_SCALE), "nothing": torch.tensor([FIRST_NOTHING])}
    lists = [
        CandidateList("who was the miller", ("It closed in 1954.", "Ada Brook ran it."), (False, True)),
        CandidateList("how high is it", ("It closed in 1954.",), (False,)),
    ]
    optimizer = torch.optim.SGD([value for value in bert.parameters() if value.requires_grad], lr=0.05)
    before = towers_loss(bert, extra, tokens, lists)
    before.backward()
    optimizer.step()
    assert towers_loss(bert, extra, tokens, lists) < before


LAYER = "base_model.model.encoder.layer.0.attention.self.query"


def checkpoint(folder: Path) -> None:
    import torch

    generator = torch.Generator().manual_seed(0)
    adapter = {
        f"{LAYER}.lora_A.default.weight": torch.randn(32, 384, generator=generator),
        f"{LAYER}.lora_B.default.weight": torch.randn(384, 32, generator=generator),
    }
    torch.save({"adapter": adapter}, folder / CHECKPOINT)


def test_an_exported_adapter_changes_the_vectors_and_with_share_0_changes_nothing(tmp_path: Path):
    checkpoint(tmp_path)
    for name, share in (("none", 0.0), ("all", 1.0)):
        assert export(tmp_path, tmp_path / name, share) > 0
    packaged, none, trained = (
        MiniLmEmbedder(device="cpu", precision="float32", adapter=adapter).embed(["Ada Brook ran it."])[0]
        for adapter in (None, tmp_path / "none", tmp_path / "all")
    )
    assert np.allclose(packaged, none)
    assert packaged @ trained < 0.99


def test_an_export_without_a_training_is_an_error(tmp_path: Path):
    with pytest.raises(ModelError, match="There is no"):
        export(tmp_path, tmp_path / "out", 1.0)
