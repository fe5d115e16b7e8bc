"""The stages of a run in their order, as far as its plan determines them, for progress."""

from __future__ import annotations

from nightrank.flow.index_half import template_settings
from nightrank.flow.query_half import bands_of
from nightrank.flow.run import STAGES
from nightrank.generations.planning import Plan
from nightrank.storage.fingerprint import fingerprint


def outline(plan: Plan, last: str = "publish") -> list[str]:
    """Names of the stages that a run goes through, as it reports them.

    What depends on the data is not known yet: a template that is trained again since the corpus
    has drifted, segments that are merged. Such stages are left out.

    Args:
        plan: the run.
        last: the stage, of `run.STAGES`, that the run stops after.
    """
    found: list[tuple[str, str]] = []
    corpus, queries = plan.scope != "results", plan.scope != "index"
    reads_corpus = corpus and not plan.corpus_stands
    for kind in ("corpus",) * reads_corpus + ("queries",) * queries:
        found += [("ingest", f"ingest {kind}"), ("delta", f"delta {kind}")]
    if corpus:
        found += _index(plan)
    if queries:
        found += _results(plan)
    reached = STAGES.index(last)
    return [name for kind, name in found if STAGES.index(kind) <= reached]


def _index(plan: Plan) -> list[tuple[str, str]]:
    base, hybrid = plan.usable_base, plan.config.retrieve.bm25.weight > 0
    encoded = base is not None and base.body["encoder"] == plan.encoder.identity()
    found = []
    if not plan.corpus_stands:
        found += [("extract", "extract"), ("segment", "segment")]
    if not (plan.corpus_stands and encoded):
        found += [("tokenize", "tokenize documents")]
        found += [("tokenize", "terms of documents")] * hybrid
        found += [("embed", "embed documents")]
    if not keeps_template(plan):
        found += [("train_index", "train index")]
    if not (plan.corpus_stands and encoded and keeps_template(plan)):
        found += [("build_index", "build index")]
    return found


def _results(plan: Plan) -> list[tuple[str, str]]:
    hybrid = plan.config.retrieve.bm25.weight > 0
    found = [("distinct", "distinct"), ("tokenize", "tokenize queries")]
    found += [("tokenize", "terms of queries")] * hybrid
    found += [("embed", "embed queries")]
    if plan.earlier and (plan.scope == "results" or keeps_template(plan)):
        found += [("search", "search new"), ("carry", "carry")]
    found += [("search", "search"), ("merge", "merge")]
    for number, step in enumerate(plan.config.rerank):
        found += [("rerank", name) for _, _, name in bands_of(plan, number)]
        is_last = number + 1 == len(plan.config.rerank)
        found += [("rank", "rank" if is_last else f"rank {step.name}")]
    if not plan.config.rerank:
        found += [("rank", "rank")]
    found += [("changes", "changes"), ("publish", "rejects")]
    return found + [("publish", "evaluate")] * (plan.qrels is not None)


def keeps_template(plan: Plan) -> bool:
    """Whether the index template of the base was made by the plan's own settings."""
    base = plan.usable_base
    settings = fingerprint(template_settings(plan))
    return base is not None and base.body["template"]["settings"] == settings
