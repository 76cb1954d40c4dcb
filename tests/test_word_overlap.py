from ragtune.dataset.checks.word_overlap import overlap_answer, overlap_shares, token_overlap
from ragtune.dataset.extractive.writer import ExtractiveWriter
from tests.support.api_pages import articles, chunk, shop


def test_the_best_sentence_shares_most_words_with_the_question():
    text = "Cats sleep a lot. Dogs chase the postman.\nBirds sing at dawn."
    assert overlap_answer("Whom do dogs chase?", text) == "Dogs chase the postman."


def test_token_overlap_by_hand():
    assert token_overlap("a b c", "A, b. d") == 2 * 2 / 6
    assert token_overlap("a", "b") == 0.0


def test_copying_the_best_sentence_does_not_give_defaults_and_types():
    chunks = [chunk(page) for page in [*shop(), *articles(60)]]
    shares = overlap_shares(ExtractiveWriter(1, limit_per_chunk=9).write(chunks), chunks)
    assert shares["default"][0] == 0.0
    assert shares["type"][0] == 0.0
    assert shares["default"][1] > 20
