"""What `doctor` says of a model: its meaning in words, and its outputs beside its own library's."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from nightrank.config.schema import PipelineConfig
from nightrank.diagnosis.models import models
from nightrank.models.describing import as_stored, compare_outputs, describe
from nightrank.models.folders.files import model_files
from nightrank.models.registry import resolve_bi_encoder, resolve_cross_encoder
from tests.support.collection import Collection
from tests.support.lake import run
from tests.support.tiny_models import tiny_tokenizer

pytestmark = pytest.mark.models
NONE = (None, None)
TEMPLATE = "{% for m in messages %}the {{ m['content'] }} river{% endfor %}"


def declare(folder: Path, **fields: object) -> None:
    file = folder / "config_sentence_transformers.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def said(folder: Path, cross_encoder: Path | str) -> dict[str, tuple[str, str]]:
    """State and text of every finding."""
    config = PipelineConfig.model_validate(
        {
            "name": "x",
            "root": str(folder.parent),
            "corpus": {"path": "c"},
            "queries": {"path": "q"},
            "encoder": {"model": str(folder)},
            # Random weights amplify what bf16 rounds: 0.13 on a CPU with AMX, of 0.1 allowed.
            "rerank": {"model": str(cross_encoder), "precision": "exact"},
        }
    )
    return {one.check: (one.state, one.found) for one in models(config, None)}


def test_doctor_says_what_models_mean_and_compares_them(
    tiny_bi_encoder: Path, tiny_cross_encoder: Path
) -> None:
    from sentence_transformers import CrossEncoder

    folder = tiny_cross_encoder.parent / "prompted"
    prompted = CrossEncoder(
        str(tiny_cross_encoder),
        device="cpu",
        prompts={"query": "what is "},
        default_prompt_name="query",
    )
    prompted.save_pretrained(str(folder))
    declare(tiny_bi_encoder, similarity_fn_name=None, prompts={"document": "river: "})
    findings = said(tiny_bi_encoder, folder)
    assert [text for state, text in findings.values() if state != "ok"] == []
    assert findings["encoder means"][1] == (
        "similarity cosine (none is declared: sentence-transformers' default);"
        " Transformer > Pooling (mean); 32 dimensions; queries without a prompt;"
        " documents with the prompt 'river: '; texts cut at 32 tokens"
    )
    assert findings["rerank means"][1] == (
        "one label; scores are its logits, of which sentence-transformers shows the Sigmoid;"
        " pairs cut at 48 tokens, the longer text first; queries with the prompt 'what is '"
    )
    for name in ("encoder outputs", "rerank outputs"):
        assert findings[name][1].startswith("differs from sentence-transformers by at most")
    built_in = said(tiny_bi_encoder, "builtin:reranker")
    assert "logits" not in built_in["rerank means"][1] and "rerank outputs" not in built_in


def test_another_meaning_lies_beyond_the_tolerance(
    tiny_bi_encoder: Path, tiny_cross_encoder: Path
) -> None:
    encoder = resolve_bi_encoder(str(tiny_bi_encoder), precision="exact")
    reranker = resolve_cross_encoder(str(tiny_cross_encoder), precision="exact")
    for model, folder in ((encoder, tiny_bi_encoder), (reranker, tiny_cross_encoder)):
        right = compare_outputs(model, folder, NONE, 1)
        assert right and right.largest <= right.tolerance / 10
    # An encoder whose vectors are not scaled, and a prompt that the folder does not declare.
    for other in (replace(encoder, normalize=False), replace(encoder, query_prompt="water ")):
        wrong = compare_outputs(other, tiny_bi_encoder, NONE, 1)
        assert wrong and wrong.largest > wrong.tolerance
    assert "dot product" in describe(replace(encoder, normalize=False), tiny_bi_encoder)


def test_doctor_opens_what_would_be_stored_and_a_run_opens_it_too(
    tmp_path: Path,
    tiny_bi_encoder: Path,
    tiny_cross_encoder: Path,
    write_config: Callable[..., str],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    settings = tiny_bi_encoder / "sentence_bert_config.json"
    plain = json.loads(settings.read_text())
    way = plain["modality_config"]["text"]
    plain["modality_config"]["message"] = {**way, "format": "flat"}
    settings.write_text(json.dumps(plain))
    (tiny_bi_encoder / "chat_template.jinja").write_text(TEMPLATE)
    (tiny_bi_encoder / "README.md").write_text("Not loaded.")
    (tiny_bi_encoder / "openvino").mkdir()
    (tiny_bi_encoder / "openvino" / "openvino_model.bin").write_bytes(b"x")
    copy = tmp_path / "copy"
    copy.mkdir()
    stored = as_stored(resolve_bi_encoder(str(tiny_bi_encoder)), copy)
    assert model_files(copy) == model_files(tiny_bi_encoder)
    assert not (copy / "README.md").exists() and not (copy / "openvino").exists()
    assert (copy / "chat_template.jinja").exists() and stored.path == str(copy)
    assert {state for state, _ in said(tiny_bi_encoder, tiny_cross_encoder).values()} == {"ok"}
    few = Collection(tmp_path_factory.mktemp("few"), documents=12, queries=2)
    plain = few.config(tmp_path / "lake", encoder={"model": str(tiny_bi_encoder)})
    assert run(write_config(plain))["documents_embedded"] == 12


def test_a_table_of_vectors_is_planned_run_and_described(
    tmp_path: Path, write_config: Callable[..., str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    from nightrank.cli.plan import plan

    table = StaticEmbedding(tiny_tokenizer(tmp_path / "t"), embedding_dim=16)
    folder = tmp_path / "model"
    SentenceTransformer(modules=[table]).save(str(folder))
    few = Collection(tmp_path_factory.mktemp("few"), documents=12, queries=2)
    path = write_config(few.config(tmp_path / "lake", encoder={"model": str(folder)}))
    plan(path, json=True)
    assert run(path)["documents_embedded"] == 12
    assert "StaticEmbedding" in said(folder, "toy:overlap")["encoder means"][1]
