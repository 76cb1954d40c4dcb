"""A multilingual embedder in a folder: built like multilingual-e5-small, but tiny and with random weights."""

from pathlib import Path

import pytest

from ragtune.backends.catalog import embedder_from, search_index_from
from ragtune.knowledge.chunking import chunk_documents
from ragtune.knowledge.indexing import update_index
from ragtune.knowledge.retrieval import Retriever
from ragtune.knowledge.sources import read_sources
from ragtune.settings import Settings, load_settings

PAGES = {
    "de": "# Hafen\n\nDas Tor der Schleuse öffnet um sechs Uhr. Boote ohne Licht warten vor der Brücke.",
    "ja": "# 港\n\n港の門は六時に開く。灯りのない船は橋の前で待つ。",
    "ru": "# Порт\n\nВорота порта открываются в шесть часов. Лодки без огней ждут у моста.",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder in sentence-transformers format: XLM-RoBERTa with word pieces of three scripts."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from tokenizers import SentencePieceUnigramTokenizer
    from transformers import PreTrainedTokenizerFast, XLMRobertaConfig, XLMRobertaModel

    folder = tmp_path_factory.mktemp("multilingual")
    special = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    pieces = SentencePieceUnigramTokenizer()
    pieces.train_from_iterator(
        PAGES.values(), vocab_size=200, show_progress=False, special_tokens=[*special.values()], unk_token="<unk>"
    )
    pieces.save(str(folder / "pieces.json"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "pieces.json"), model_max_length=128, **special)
    torch.manual_seed(3)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    model = XLMRobertaModel(XLMRobertaConfig(vocab_size=len(tokenizer), max_position_embeddings=130, **sizes))
    model.save_pretrained(folder / "network")
    tokenizer.save_pretrained(folder / "network")
    network = Transformer(str(folder / "network"), max_seq_length=128)
    SentenceTransformer(modules=[network, Pooling(32)]).save(str(folder / "embedder"))
    return folder / "embedder"


@pytest.fixture
def settings(folder: Path, tmp_path: Path) -> Settings:
    pages = tmp_path / "pages"
    pages.mkdir()
    for name, text in PAGES.items():
        (pages / f"{name}.md").write_text(text)
    return load_settings(
        {
            "home": tmp_path / "home",
            "sources": [f"folder:{pages}"],
            "chunking": {"max_tokens": 96, "overlap_tokens": 0},
            "embedder": {"backend": "sentence-transformers", "model": str(folder)},
        }
    )


def test_a_multilingual_embedder_in_a_folder_finds_a_text_of_any_script(settings: Settings) -> None:
    embedder = embedder_from(settings)
    chunks = chunk_documents(read_sources(settings.sources).documents, settings.chunking, embedder.count_tokens)
    assert [chunk.language for chunk in chunks] == ["de", "ja", "ru"]
    assert max(embedder.count_tokens([chunk.embedded_text for chunk in chunks])) <= settings.chunking.max_tokens
    index = search_index_from(settings, embedder)
    update_index(index, embedder, chunks)
    for mode in ("vector", "hybrid"):
        retriever = Retriever(index, embedder, settings.index)
        hits = retriever.search_many([chunk.embedded_text for chunk in chunks], 1, mode)
        assert [hit.chunk.id for (hit,) in hits] == [chunk.id for chunk in chunks]
