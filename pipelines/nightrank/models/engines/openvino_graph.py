"""BERT-like encoders and their heads, as OpenVINO graphs.

The encoder has the form that OpenVINO's CPU plugin compiles to the fewest kernels: query, key and
value as three products (one joint product needs a split, which no kernel absorbs), heads transposed
directly after their product, the scale in the query's weights, one mask added before the softmax.
Attention is then one kernel, and a mask costs nothing: 354 GFLOP/s at 16 x 256 tokens in bf16 on
two cores of Zen 4, where a single large product reaches 444; with `scaled_dot_product_attention` or
joint projections 302 to 346.

Heads are separate graphs in float32: they take the encoder's output, which is float32 in any
precision, so that only the encoder rounds.

Inputs: `ids` and `types` int32 [n, length], padded on the right; `lengths` int64 [n], tokens of
each row; a head takes `hidden` float32 [n, length, width] first.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from nightrank.models.engines.bert import Bert, Float32
from nightrank.models.engines.openvino_library import openvino
from nightrank.models.engines.openvino_library import opset15 as op

MASKED = -1e4  # far below any attention score, and a number in bfloat16 too
Node = Any


def encoder(bert: Bert, first_only: bool = False) -> openvino.Model:
    """Token ids to the last layer's vectors.

    Args:
        bert: its weights.
        first_only: compute the last layer only for the first token; the output is then
            [n, 1, width]. Exact: it does not depend on that layer's other vectors.
    """
    ids, types = (op.parameter([-1, -1], np.int32, name=name) for name in ("ids", "types"))
    lengths = op.parameter([-1], np.int64, name="lengths")
    tensors, width = bert.tensors, bert.hidden

    def linear(x: Node, name: str, factor: float = 1.0) -> Node:
        return _linear(x, tensors[f"{name}.weight"] * factor, tensors[f"{name}.bias"] * factor)

    def norm(x: Node, name: str) -> Node:
        scaled = op.mvn(x, _ints([-1]), True, bert.epsilon, "inside_sqrt")
        weight, bias = _floats(tensors[f"{name}.weight"]), _floats(tensors[f"{name}.bias"])
        return op.add(op.multiply(scaled, weight), bias)

    def heads(x: Node, order: list[int]) -> Node:
        split = op.reshape(x, _ints([0, 0, bert.heads, width // bert.heads]), True)
        return op.transpose(split, _ints(order))

    def look_up(name: str, rows: Node) -> Node:
        return op.gather(_floats(tensors[f"embeddings.{name}.weight"]), rows, _ints(0))

    length = op.gather(op.shape_of(ids, "i64"), _ints([1]), _ints(0))
    place = op.range(_ints(0), op.squeeze(length, _ints([0])), _ints(1), "i64")
    x = op.add(look_up("word_embeddings", ids), look_up("token_type_embeddings", types))
    x = op.add(x, look_up("position_embeddings", op.add(place, _ints(bert.first_position))))
    x = norm(x, "embeddings.LayerNorm")
    inside = op.less(place, op.unsqueeze(lengths, _ints([1, 2, 3])))
    mask = op.select(inside, _floats(0.0), _floats(MASKED))
    scale = float(np.sqrt(bert.heads / width))
    for number in range(bert.layers):
        layer = f"encoder.layer.{number}"
        attention = f"{layer}.attention.self"
        queried = _first(x) if first_only and number + 1 == bert.layers else x
        query = heads(linear(queried, f"{attention}.query", scale), [0, 2, 1, 3])
        key = heads(linear(x, f"{attention}.key"), [0, 2, 3, 1])
        value = heads(linear(x, f"{attention}.value"), [0, 2, 1, 3])
        share = op.softmax(op.add(op.matmul(query, key, False, False), mask), -1)
        mixed = op.transpose(op.matmul(share, value, False, False), _ints([0, 2, 1, 3]))
        mixed = linear(
            op.reshape(mixed, _ints([0, 0, width]), True), f"{layer}.attention.output.dense"
        )
        x = norm(op.add(queried, mixed), f"{layer}.attention.output.LayerNorm")
        inner = op.gelu(linear(x, f"{layer}.intermediate.dense"), "erf")
        x = norm(op.add(x, linear(inner, f"{layer}.output.dense")), f"{layer}.output.LayerNorm")
    return openvino.Model([op.result(x)], [ids, types, lengths], "encoder")


def interaction_head(tensors: dict[str, Float32], width: int) -> openvino.Model:
    """The built-in reranker's head; `interaction` has the formula.

    Args:
        tensors: `transform.weight`, `transform.bias`, `cls_weight`, `importance`, `log_scale`.
        width: of a token's vector.

    Returns:
        (hidden, lengths, query_lengths int64 [n]) to float32 [n].
    """
    hidden, lengths = _hidden(width), op.parameter([-1], np.int64, name="lengths")
    queries = op.parameter([-1], np.int64, name="query_lengths")
    length = op.gather(op.shape_of(hidden, "i64"), _ints(1), _ints(0))
    place = op.unsqueeze(op.range(_ints(0), length, _ints(1), "i64"), _ints([0]))
    query_length = op.unsqueeze(queries, _ints([1]))
    in_document = op.logical_and(
        op.greater_equal(place, op.add(query_length, _ints(2))),
        op.less(place, op.unsqueeze(lengths, _ints([1]))),
    )
    stop = op.add(op.reduce_max(queries, _ints([0]), True), _ints(1))
    head = op.slice(place, _ints([0]), stop, _ints([1]), _ints([1]))
    in_query = op.logical_and(op.greater_equal(head, _ints(1)), op.less_equal(head, query_length))
    # [CLS] represents an empty query.
    empty = op.logical_and(op.equal(query_length, _ints(0)), op.equal(head, _ints(0)))
    in_query = op.logical_or(in_query, empty)

    unit = op.normalize_l2(hidden, _ints([2]), 1e-24, "max")
    unit_head = op.slice(unit, _ints([0]), stop, _ints([1]), _ints([1]))
    cosine = op.matmul(unit_head, unit, False, True)
    seen = op.select(op.unsqueeze(in_document, _ints([1])), cosine, _floats(-1.0))
    best = op.reduce_max(seen, _ints([2]), False)
    hidden_head = op.slice(hidden, _ints([0]), stop, _ints([1]), _ints([1]))
    weight = op.matmul(hidden_head, _floats(tensors["importance"]), False, False)
    weight = op.softmax(op.select(in_query, weight, _floats(-np.inf)), 1)
    matched = op.reduce_sum(op.multiply(weight, best), _ints([1]), False)
    first = op.squeeze(_first(hidden), _ints([1]))
    summary = op.tanh(_linear(first, tensors["transform.weight"], tensors["transform.bias"]))
    from_first = op.matmul(summary, _floats(tensors["cls_weight"]), False, False)
    score = op.add(op.multiply(matched, _floats(np.exp(tensors["log_scale"]))), from_first)
    return openvino.Model([op.result(score)], [hidden, lengths, queries], "interaction")


def pooling_head(width: int, mean: bool, dimension: int, normalize: bool) -> openvino.Model:
    """(hidden, lengths) to one vector a text, float32 [n, dimension].

    Args:
        width: of a token's vector.
        mean: the mean over a text's tokens; else the first token's vector.
        dimension: leading numbers to keep.
        normalize: whether to scale to unit length.
    """
    hidden, lengths = _hidden(width), op.parameter([-1], np.int64, name="lengths")
    if mean:
        length = op.gather(op.shape_of(hidden, "i64"), _ints(1), _ints(0))
        place = op.range(_ints(0), length, _ints(1), "i64")
        inside = op.less(place, op.unsqueeze(lengths, _ints([1, 2])))  # [n, 1, length]
        share = op.divide(
            op.convert(inside, "f32"), op.convert(op.unsqueeze(lengths, _ints([1, 2])), "f32")
        )
        pooled = op.squeeze(op.matmul(share, hidden, False, False), _ints([1]))
    else:
        pooled = op.squeeze(_first(hidden), _ints([1]))
    if dimension < width:
        pooled = op.slice(pooled, _ints([0]), _ints([dimension]), _ints([1]), _ints([1]))
    if normalize:
        pooled = op.normalize_l2(pooled, _ints([1]), 1e-24, "max")
    return openvino.Model([op.result(pooled)], [hidden, lengths], "pooling")


def classifier_head(layers: list[tuple[Float32, Float32]], width: int) -> openvino.Model:
    """(hidden of the first token, lengths) to one logit a row, float32 [n].

    Args:
        layers: weight and bias of two layers, with a tanh between.
        width: of a token's vector.
    """
    hidden, lengths = _hidden(width), op.parameter([-1], np.int64, name="lengths")
    first = op.squeeze(_first(hidden), _ints([1]))
    logit = _linear(op.tanh(_linear(first, *layers[0])), *layers[1])
    return openvino.Model([op.result(op.squeeze(logit, _ints([1])))], [hidden, lengths], "logit")


def _hidden(width: int) -> Node:
    return op.parameter([-1, -1, width], np.float32, name="hidden")


def _first(x: Node) -> Node:
    """[n, length, width] to [n, 1, width]."""
    return op.slice(x, _ints([0]), _ints([1]), _ints([1]), _ints([1]))


def _linear(x: Node, weight: Float32, bias: Float32) -> Node:
    return op.add(op.matmul(x, _floats(weight), False, True), _floats(bias))


def _ints(values: Any) -> Node:
    return op.constant(np.asarray(values, np.int64))


def _floats(values: Any) -> Node:
    return op.constant(np.ascontiguousarray(values, np.float32))
