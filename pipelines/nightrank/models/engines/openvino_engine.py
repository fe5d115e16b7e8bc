"""The engine for CPUs: graphs of `openvino_graph`, compiled by OpenVINO."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nightrank.models.engines.openvino_library import openvino
from nightrank.models.protocols import Precision
from nightrank.models.text.pieces import Batch

PRECISIONS = {"fp32": "f32", "bf16": "bf16"}


@functools.cache
def _core() -> openvino.Core:
    return openvino.Core()


def _compile(model: openvino.Model, precision: Precision, threads: int) -> Any:
    """Compiles a graph for one request at a time."""
    return _core().compile_model(
        model,
        "CPU",
        {
            "INFERENCE_PRECISION_HINT": PRECISIONS[precision],
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            # Several workers of a node would all be pinned to its first cores.
            "ENABLE_CPU_PINNING": False,
        },
    )


class OpenVinoEngine:
    """An encoder and its head.

    Args:
        encoder: from `openvino_graph.encoder`.
        head: a graph that takes (hidden, lengths), and `query_lengths` where it has a third input.
        precision: the encoder's; the head runs in float32.
        threads: CPU threads.
        typed: whether the encoder was trained with token types; else all are 0.
    """

    # Larger batches gain nothing on a CPU, smaller ones have too few rows for its kernels.
    token_budget = 4096

    def __init__(
        self,
        encoder: openvino.Model,
        head: openvino.Model,
        precision: Precision,
        threads: int,
        typed: bool = True,
    ) -> None:
        self._encoder = _compile(encoder, precision, threads).create_infer_request()
        self._head = _compile(head, "fp32", threads).create_infer_request()
        self._takes_queries, self._typed = len(head.inputs) == 3, typed

    def start(self, batch: Batch) -> NDArray[np.float32]:
        """Runs a batch; float32 [n] or [n, width], a copy."""
        types = batch.token_types if self._typed else np.zeros_like(batch.token_types)
        feed = [batch.input_ids, types, batch.lengths]
        self._encoder.infer(feed, share_inputs=True)
        head_inputs: list[Any] = [self._encoder.get_output_tensor(0), batch.lengths]
        if self._takes_queries:
            head_inputs.append(batch.first_lengths)
        self._head.infer(head_inputs, share_inputs=True)
        return np.array(self._head.get_output_tensor(0).data)

    def finish(self, started: NDArray[np.float32]) -> NDArray[np.float32]:
        """Returns the outputs: `start` has computed them."""
        return started
