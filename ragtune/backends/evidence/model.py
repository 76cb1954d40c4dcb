"""The evidence model: the packaged MiniLM with a small adapter, and a calibration of its cosines.

Question and unit are read apart, so that the vectors of units can be kept: a question over passages that were shown
before costs one vector. weights/MODEL_CARD.md says what the adapter was trained on.
"""

import json
import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from ragtune.backends.minilm import MiniLmEmbedder
from ragtune.backends.shared_embedder import SharedEmbedder, half_of
from ragtune.errors import ModelError
from ragtune.ports import Embedder, EvidenceModel
from ragtune.store.artifacts import files_sha256, folder_files

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Vector = npt.NDArray[np.float32]

WEIGHTS = Path(__file__).parent / "weights"
KEPT_UNITS = 32768
"""Units whose vectors are kept: 25 MB at 384 numbers of 16 bits, and about as much for their texts. Chosen by hand."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """How a cosine becomes a probability, and which probabilities answerable questions reach.

    The probability is 1 / (1 + exp(-(slope * cosine + intercept))) (Platt 1999). `curve` holds pairs (share,
    probability): for that share of answerable questions, no text of the passages reaches that probability.
    """

    slope: float
    intercept: float
    curve: tuple[tuple[float, float], ...]

    def probability(self, cosine: float) -> float:
        """Return the probability that a text with this cosine to the question answers it."""
        return 1.0 / (1.0 + math.exp(-(self.slope * cosine + self.intercept)))

    def threshold(self, refused_share: float) -> float:
        """Return the probability at this share of the curve, interpolated between its points."""
        for (low_share, low), (high_share, high) in pairwise(self.curve):
            if refused_share <= high_share:
                return low + (high - low) * (refused_share - low_share) / (high_share - low_share)
        return self.curve[-1][1]


def read_calibration(folder: Path) -> Calibration:
    """Return the calibration in a folder; raise ModelError if there is none or its curve does not rise from 0 to 1."""
    path = folder / "calibration.json"
    if not path.is_file():
        raise ModelError(f"{folder} holds no calibration.json.", "the weights of the evidence model")
    fields = json.loads(path.read_text())
    curve = tuple((float(share), float(probability)) for share, probability in fields["curve"])
    rises = all(first < second and low <= high for (first, low), (second, high) in pairwise(curve))
    if not curve or curve[0][0] != 0.0 or curve[-1][0] != 1.0 or not rises:
        raise ModelError(f"The curve in {path} does not rise from 0 to 1.", "pairs (share, probability) in order")
    return Calibration(float(fields["slope"]), float(fields["intercept"]), curve)


class MiniLmEvidence(EvidenceModel):
    """Two towers with shared weights; safe for several threads."""

    def __init__(
        self, embedder: Embedder, calibration: Calibration, kept_units: int = KEPT_UNITS, version: str = ""
    ) -> None:
        self.name = f"{embedder.name} {version}".strip()
        self._embedder, self._calibration, self._most = embedder, calibration, kept_units
        self._kept: OrderedDict[str, Vector] = OrderedDict()
        self._lock = Lock()

    def probabilities(self, question: str, texts: Sequence[str]) -> list[float]:
        """Return for each text the probability that it answers the question; see EvidenceModel."""
        return [self._calibration.probability(cosine) for cosine in self.cosines(question, texts)]

    def cosines(self, question: str, texts: Sequence[str]) -> list[float]:
        """Return for each text the cosine of its vector to that of the question, from -1 to 1."""
        with self._lock:
            known = {text: self._kept[text] for text in texts if text in self._kept}
        new = [text for text in dict.fromkeys(texts) if text not in known]
        asked, *vectors = self._embedder.embed([question, *new])
        known |= {text: vector.astype("float16") for text, vector in zip(new, vectors, strict=True)}
        with self._lock:
            for text in texts:
                self._kept[text] = known[text]
                self._kept.move_to_end(text)
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)
        return [float(known[text].astype("float32") @ asked) for text in texts]

    def threshold(self, refused_share: float) -> float:
        """Return the probability that the best text of this share of answerable questions stays below."""
        return self._calibration.threshold(refused_share)


def packaged_evidence(threads: int, device: str) -> MiniLmEvidence:
    """Return the evidence model with the weights of this package."""
    version = files_sha256(folder_files(WEIGHTS))[:12]
    return MiniLmEvidence(evidence_embedder(threads, device), read_calibration(WEIGHTS), version=version)


def evidence_embedder(threads: int, device: str, weights: Path = WEIGHTS) -> Embedder:
    """Return the packaged MiniLM with the adapter of the evidence model."""
    embedder = MiniLmEmbedder(threads=threads, device=device, adapter=weights)
    return SharedEmbedder(embedder, at_once=half_of(threads))
