"""Writes all-MiniLM-L6-v2 as an ONNX file with int8 weights, one scale a column; activations are scaled as they come.

    python benchmarks/retrieval/int8_export.py path/to/weights int8.onnx

It runs in an environment with onnx, onnxruntime and transformers, so it imports nothing of ours.
"""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory


def main() -> None:
    """Export and quantise."""
    import torch
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from transformers import AutoModel

    weights, target = sys.argv[1:]

    class States(torch.nn.Module):
        """From token ids and mask to the last hidden states."""

        def __init__(self) -> None:
            super().__init__()
            self.model = AutoModel.from_pretrained(weights, attn_implementation="eager")

        def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            return self.model(input_ids=ids, attention_mask=mask).last_hidden_state

    example = torch.ones((2, 16), dtype=torch.int64)
    names = ["input_ids", "attention_mask", "states"]
    with TemporaryDirectory() as folder:
        exact = str(Path(folder) / "float32.onnx")
        torch.onnx.export(
            States().eval(),
            (example, example),
            exact,
            input_names=names[:2],
            output_names=names[2:],
            dynamic_axes={name: {0: "texts", 1: "tokens"} for name in names},
            dynamo=False,
        )
        # AVX2 adds pairs of products in 16 bits, which eight bits of weight overflow.
        how = {"weight_type": QuantType.QInt8, "per_channel": True, "reduce_range": True}
        quantize_dynamic(exact, target, op_types_to_quantize=["MatMul"], **how)


if __name__ == "__main__":
    main()
