"""The route for embeddings, by the same embedder as the search index."""

import base64
from typing import Any

from fastapi import APIRouter

from ragtune.errors import SettingsError
from ragtune_serving.grounding import Grounding
from ragtune_serving.schema import Embedding, EmbeddingRequest, EmbeddingResponse, EmbeddingUsage


def add_embedding_route(router: APIRouter, grounding: Grounding, responses: dict[int | str, dict[str, Any]]) -> None:
    """Add `/v1/embeddings`; a text that is longer than the embedder reads is cut, as in the index."""

    @router.post("/v1/embeddings", tags=["answering"], responses=responses, summary="Embed texts as the index does")
    def embeddings(body: EmbeddingRequest) -> EmbeddingResponse:
        embedder = grounding.embedder()
        if body.dimensions not in (None, embedder.dimension):
            raise SettingsError(f"dimensions is {body.dimensions}.", f"{embedder.dimension}, or leave it out")
        texts = [body.input] if isinstance(body.input, str) else body.input
        vectors = embedder.embed(texts)
        tokens = sum(min(count, embedder.max_tokens) for count in embedder.count_tokens(texts))
        if body.encoding_format == "base64":  # little-endian 32-bit floats, as OpenAI's clients expect
            encoded = [base64.b64encode(vector.astype("<f4").tobytes()).decode() for vector in vectors]
        else:
            encoded = [vector.tolist() for vector in vectors]
        return EmbeddingResponse(
            data=[Embedding(index=number, embedding=vector) for number, vector in enumerate(encoded)],
            usage=EmbeddingUsage(prompt_tokens=tokens, total_tokens=tokens),
        )
