"""What planning decides of models by where they will run."""

from pathlib import Path
from typing import Any

import pytest

from nightrank.config.schema import PipelineConfig
from nightrank.generations import planned_models
from nightrank.generations.planned_models import resolve_models
from nightrank.storage.store import Store

pytestmark = pytest.mark.models
CORE, GPU = pytest.approx(500_000, rel=0.01), pytest.approx(565_000_000, rel=0.01)


@pytest.mark.parametrize(
    ("gpus", "here", "minute"),
    [(None, False, CORE), (None, True, GPU), (1.0, False, GPU), (0.5, False, GPU), (0, True, CORE)],
)
def test_units_are_cut_for_the_gpus_that_the_config_names_or_else_for_those_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpus: float | None, here: bool, minute: Any
) -> None:
    monkeypatch.setattr(planned_models, "has_cuda", lambda: here)
    config = PipelineConfig.model_validate(
        {
            "name": "x",
            "root": str(tmp_path),
            "corpus": {"path": "c"},
            "queries": {"path": "q"},
            "rerank": [{}, {"name": "toy", "model": "toy:overlap"}],
            "cluster": {"pools": {"model": {"gpus": gpus}}},
        }
    )
    encoder, (reranker, toy) = resolve_models(config, Store(str(tmp_path)))
    assert reranker.minute_tokens == encoder.minute_tokens == minute
    assert toy.minute_tokens == 500_000
    assert (reranker.precision == "bf16") or not gpus
    assert "minute_tokens" not in reranker.identity()
