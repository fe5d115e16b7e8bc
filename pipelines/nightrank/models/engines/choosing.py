"""Chooses the engine that runs a network.

With a CUDA device torch runs everything (`torch_engine`). On x86 CPUs, OpenVINO runs BERT, RoBERTa
and XLM-RoBERTa; torch runs any other network with its own library's code, and known heads in
float32.

Imports torch and OpenVINO only where they are used: a worker with the built-in models never loads
torch on a machine without CUDA.
"""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

from nightrank.models.engines import bert
from nightrank.models.engines.reranker_tensors import encoder_tensors, trained_tensors
from nightrank.models.folders.settings import normalizes, pools_by_mean
from nightrank.models.hardware import has_cuda
from nightrank.models.protocols import Precision, ResolvedModel
from nightrank.models.text.inputs import Engine


def interaction(base: Path, delta: Path, precision: Precision, threads: int) -> Engine:
    """The engine of the built-in reranker.

    Args:
        base: folder of the published bi-encoder.
        delta: folder of the difference.
        precision: of the encoder.
        threads: CPU threads.
    """
    tensors = trained_tensors(base, delta)
    encoder = bert.read_encoder(base, encoder_tensors(tensors))
    if not _on_openvino() or encoder is None:
        return _torch(threads).interaction_engine(base, delta, precision)
    from nightrank.models.engines import openvino_graph as graphs
    from nightrank.models.engines.openvino_engine import OpenVinoEngine

    head = graphs.interaction_head(tensors, encoder.hidden)
    return OpenVinoEngine(graphs.encoder(encoder), head, precision, threads)


def classifier(folder: Path, precision: Precision, threads: int, typed: bool) -> Engine:
    """The engine of a one-label sequence classifier.

    Args:
        folder: its files.
        precision: of the encoder; of the whole network where torch runs it in its library's form.
        threads: CPU threads.
        typed: whether its tokenizer returns token types.

    Raises:
        NightrankError: E_MODEL, where it cannot be loaded.
    """
    parts = bert.read_classifier(folder) if _on_openvino() else None
    if parts is None:
        return _torch(threads).classifier_engine(folder, precision, typed)
    from nightrank.models.engines import openvino_graph as graphs
    from nightrank.models.engines.openvino_engine import OpenVinoEngine

    encoder, layers = parts
    head = graphs.classifier_head(layers, encoder.hidden)
    graph = graphs.encoder(encoder, first_only=True)
    return OpenVinoEngine(graph, head, precision, threads, typed)


def pooled(folder: Path, resolved: ResolvedModel, threads: int) -> Engine | None:
    """The engine of a bi-encoder; None where it has more than an encoder, pooling, normalisation.

    Args:
        folder: a sentence-transformers folder.
        resolved: precision, dimension, normalisation.
        threads: CPU threads.
    """
    mean = pools_by_mean(folder)
    # After a Normalize, a vector with fewer dimensions is no longer of unit length.
    if mean is None or normalizes(folder) > resolved.normalize:
        return None
    if not _on_openvino():
        return _torch(threads).pooled_engine(folder, resolved, mean)
    encoder = bert.read_encoder(folder)
    if encoder is None:
        return None
    from nightrank.models.engines import openvino_graph as graphs
    from nightrank.models.engines.openvino_engine import OpenVinoEngine

    head = graphs.pooling_head(encoder.hidden, mean, resolved.dimension, resolved.normalize)
    graph = graphs.encoder(encoder, first_only=not mean)
    return OpenVinoEngine(graph, head, resolved.precision, threads)


def _torch(threads: int) -> Any:
    """The module of torch's engines, after setting the threads of this process."""
    from nightrank.models.engines import torch_models

    torch_models.use_threads(threads)
    return torch_models


def _on_openvino() -> bool:
    return not has_cuda() and platform.machine() in ("x86_64", "AMD64")
