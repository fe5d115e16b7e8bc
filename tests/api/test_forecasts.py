"""Forecasts and evaluations as typed values, equal to what the command line prints."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import nightrank
from nightrank.cli.app import app
from nightrank.cli.terminal import guarded
from tests.support.collection import Collection
from tests.support.published import Published


def json_line(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, object]:
    capsys.readouterr()
    assert guarded(lambda **_: app([*arguments, "--json"])) == 0
    return dict(json.loads(capsys.readouterr().out))


def test_a_first_run_is_forecast_and_compared_with_what_it_took(
    small: Collection, tmp_path: Path
) -> None:
    config = small.config(tmp_path / "lake")
    prices = nightrank.Prices(cpu_hour=2.0, get_1000=0.4)
    forecast = nightrank.plan(config, prices=prices)
    assert forecast.whole and forecast.next_run is None and forecast.lake_bytes is not None
    assert (forecast.documents.kept, forecast.queries.distinct) == (200, 12)
    assert forecast.pairs == 12 * 20 and forecast.stages["rerank"].units == 1
    assert forecast.seconds == pytest.approx(
        sum(stage.seconds for stage in forecast.stages.values()), abs=0.2
    )
    assert set(forecast.usd) == {"cpu", "get", "total", "night"}
    assert forecast.stored and "is compared with it" in forecast.note
    assert forecast.bottleneck is not None and forecast.bottleneck.setting == "cluster.executor"
    assert forecast.memory.available > forecast.memory.group > 0
    result = nightrank.run(config, progress=False)
    assert result.forecast is not None and result.actual is not None
    assert result.forecast["pairs"] == result.actual["pairs"] == forecast.pairs
    assert "forecast, then actual:" in str(result)


def test_the_next_run_of_a_lake_is_what_is_left(published: Published) -> None:
    forecast = nightrank.plan(published.config)
    assert forecast.stages == {} and forecast.bottleneck is None and not forecast.stored
    assert forecast.next_run is not None and forecast.next_run.pairs.to_score == 0
    deeper = nightrank.dry_run(published.config, {"retrieve.depth": 30, "rerank.depth": 30})
    assert deeper.next_run is not None
    assert deeper.next_run.counted and deeper.next_run.documents.added == 0
    assert deeper.next_run.pairs.needed == 12 * 30
    changes = {change.what: (change.before, change.now) for change in deeper.next_run.recomputed}
    assert changes["retrieve.depth"] == (20, 30)
    assert "nothing was written to the lake" in deeper.note
    whole = nightrank.plan(published.config, from_scratch=True)
    assert whole.next_run is None and whole.pairs == 12 * 20


def test_another_size_and_another_gpu_can_be_asked_for(published: Published) -> None:
    large = nightrank.plan(published.config, documents=1_000_000, queries=50_000, device="H100")
    assert large.documents.kept == 1_000_000 and large.pairs == 50_000 * 20
    assert large.device == "H100" and not large.stored and not large.whole
    with pytest.raises(nightrank.NightrankError) as caught:
        nightrank.plan(published.config, documents=10**8, node_memory_gib=0.1)
    assert caught.value.code == "E_CONFIG" and caught.value.where == "search.memory_bytes"
    with pytest.raises(nightrank.NightrankError, match="A10G"):
        nightrank.plan(published.config, device="GTX")


def test_a_forecast_prints_as_the_command_line_does(
    published: Published, write_config: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_config(published.config)
    forecast = nightrank.dry_run(config)
    line = json_line(capsys, "nightly", config, "--dry-run")
    timed = ("stages", "seconds", "cpu_hours", "night")
    plain = forecast.to_dict()
    assert set(line) == set(plain)
    assert {n: v for n, v in line.items() if n not in timed} == {
        n: v for n, v in json.loads(json.dumps(plain)).items() if n not in timed
    }
    assert str(forecast).startswith("forecast of the next run of tiny on this machine\n")
    assert str(forecast).endswith(forecast.note)
    assert repr(forecast).startswith("Forecast(name='tiny', seconds=0, pairs=")


def test_an_evaluation_has_measures_the_report_and_values_by_query(
    published: Published, write_config: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    evaluation = nightrank.evaluate(published.config)
    assert evaluation.generation == 1 and evaluation.measures == published.result.measures
    assert evaluation.report == published.result.report
    assert evaluation.html() == Path(evaluation.report).read_bytes()
    values = evaluation.per_query()
    assert values.num_rows == 12 * 3 * 3
    assert str(evaluation) == evaluation.summary and "nDCG@10" in evaluation.summary
    line = json_line(capsys, "evaluate", write_config(published.config))
    assert line == json.loads(json.dumps(evaluation.to_dict()))
    other = nightrank.evaluate(published.config, {"evaluate.measures": ["P@3"]})
    assert list(other.measures) == ["P@3"]
    for overrides, generation, code in (
        ({"evaluate.qrels": None}, None, "E_CONFIG"),
        ({}, "2020-01-01", "E_EMPTY"),
    ):
        with pytest.raises(nightrank.NightrankError) as caught:
            nightrank.evaluate(published.config, overrides, generation=generation)
        assert caught.value.code == code
