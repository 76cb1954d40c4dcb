import json

import pytest

from ragtune.backends.catalog import retriever_over
from ragtune.backends.lance_index import LanceIndex
from ragtune.backends.minilm import minilm_folder
from ragtune.backends.rerankers import CrossEncoderReranker, LanguageModelRewriter
from ragtune.errors import DatasetError, ModelError
from ragtune.knowledge.indexing import update_index
from ragtune.knowledge.retrieval import Retriever
from ragtune.settings import IndexSettings, RewriterSettings, load_settings
from tests.support.counting_embedder import CountingEmbedder
from tests.support.model_server import ModelServer
from tests.test_retrieval import CHUNKS


@pytest.fixture
def index(tmp_path):
    found = LanceIndex(tmp_path / "index", "words", 32)
    update_index(found, CountingEmbedder(), CHUNKS)
    return found


@pytest.fixture(scope="module")
def cross_encoder(tmp_path_factory):
    import torch
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("cross-encoder")
    torch.manual_seed(1)
    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    BertForSequenceClassification(BertConfig(num_labels=1, **shape)).save_pretrained(folder)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(minilm_folder() / "tokenizer.json"),
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        unk_token="[UNK]",
        model_max_length=128,
    )
    tokenizer.save_pretrained(folder)
    return folder


def test_a_reranker_orders_the_first_hits_and_gives_them_its_scores(index):
    def longest(question, texts):
        return [float(len(text)) for text in texts]

    retriever = Retriever(index, CountingEmbedder(), IndexSettings(reranked=5), rerank=longest)
    hits = retriever.search("low-rank adapter", 2)
    lengths = sorted((len(chunk.embedded_text) for chunk in CHUNKS), reverse=True)
    assert [hit.score for hit in hits] == lengths[:2]


def test_a_cross_encoder_in_a_folder_scores_each_text(cross_encoder, index, tmp_path):
    scores = CrossEncoderReranker(str(cross_encoder))("what is rank", ["the rank", "a linear map", "the rank"])
    assert scores[0] == pytest.approx(scores[2])
    assert scores[0] != pytest.approx(scores[1], abs=1e-6)
    settings = load_settings({"home": tmp_path, "index": {"reranker": str(cross_encoder)}})
    hits = retriever_over(index, CountingEmbedder(), settings).search("what is rank", 3)
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert len(hits) == 3


def test_a_reranker_that_is_not_there_is_named_with_its_setting(tmp_path):
    with pytest.raises(ModelError, match=r"index\.reranker"):
        CrossEncoderReranker(str(tmp_path / "nowhere"))


def test_a_question_is_searched_for_in_other_words_too_and_the_model_is_asked_once(index, tmp_path):
    server = ModelServer(
        lambda body: json.dumps({"questions": ["Install the package", " ", "torch.nn.Linear", "more"]})
    )
    try:
        chosen = server.settings(RewriterSettings, rewordings=2)
        reword = LanguageModelRewriter(chosen, tmp_path / "rewordings", 1)
        assert reword(["zebra"]) == [["Install the package", "torch.nn.Linear"]]
        retriever = Retriever(index, CountingEmbedder(), IndexSettings(), reword=reword)
        found = [hit.chunk.title for hit in retriever.search("zebra", 3, mode="text")]
        assert "Getting started" in found
        assert len(server.requests) == 1
    finally:
        server.close()


def test_a_rewriter_that_never_answers_is_an_error_and_no_quiet_loss(index, tmp_path):
    server = ModelServer(lambda body: "")
    server.faults = [(401, "no")] * 3
    try:
        settings = load_settings(
            {"home": tmp_path, "index": {"rewriter": server.settings(RewriterSettings).model_dump()}}
        )
        with pytest.raises(DatasetError, match=r"index\.rewriter"):
            retriever_over(index, CountingEmbedder(), settings).search("zebra", 3)
    finally:
        server.close()
