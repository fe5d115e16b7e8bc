"""Keys of what later runs take over: the index template, and lists of the first stage."""

from __future__ import annotations

from nightrank.config.schema import PipelineConfig
from nightrank.generations.entries import TemplateEntry
from nightrank.generations.planning import Plan
from nightrank.generations.stage_order import vectors_key, versions_of
from nightrank.storage.fingerprint import fingerprint


def template_key(plan: Plan) -> str:
    """What an index template depends on beside the documents."""
    config = plan.config
    settings = {
        "index": config.index.model_dump(mode="json", exclude={"shard_bytes"}),
        "depth": config.retrieve.depth,
        "vectors": vectors_key(plan.encoder),
        "bm25": config.retrieve.bm25.language if config.retrieve.bm25.weight else None,
        "versions": versions_of("terms", "train_index"),
    }
    return fingerprint(settings)


def keeps_template(plan: Plan) -> bool:
    """Whether the index template of the base was made by the plan's own settings."""
    base = plan.usable_base
    return base is not None and base.template.key == template_key(plan)


def lists_key(config: PipelineConfig, template: TemplateEntry) -> str:
    """What first-stage lists depend on beside documents and queries."""
    retrieve = config.retrieve
    settings = retrieve.bm25.model_dump(mode="json", exclude={"weight"})
    return fingerprint(
        {
            "template": template.path,
            "search_parameters": template.search_parameters,
            "depth": retrieve.depth,
            "bm25": settings if retrieve.bm25.weight else None,
            "versions": versions_of(
                "tokenize", "terms", "embed", "build_index", "carry", "search", "merge"
            ),
        }
    )
