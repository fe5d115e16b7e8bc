"""Dashboard and alerts against what a real run and the exporter really tell.

A run on the built-in models, on a cluster with a metrics agent, scraped while it goes. A query may
name no metric and no label value that was not seen: a panel without data is worse than none.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from nightrank.cli.app import app
from nightrank.errors import EXIT_CODES
from tests.support.cluster import TokenCluster
from tests.support.collection import Collection, write_jsonl
from tests.support.manifests import INFRA
from tests.support.network import free_port
from tests.support.program import nightrank

pytestmark = [pytest.mark.ray, pytest.mark.models]
BASE = INFRA / "kubernetes" / "base"
# What kube-state-metrics says of Jobs (its docs/metrics/workload/job-metrics.md), where Prometheus
# has it: nothing of this project tells it.
OF_JOBS = {
    "kube_job_failed": [{"job_name": "", "namespace": "nightrank", "condition": "true"}],
    "kube_job_created": [{"job_name": "", "namespace": "nightrank"}],
}
Seen = dict[str, list[dict[str, str]]]
PROBES = ("readinessProbe", "livenessProbe")
# Labels that Prometheus or the scrape's configuration adds.
ADDED = {"instance", "component", "job", "namespace", "pod"}


def scrape(url: str, seen: Seen) -> dict[str, list[tuple[dict[str, str], float]]]:
    """Reads one endpoint into `seen` (labels by series name); returns the samples."""
    with urllib.request.urlopen(url, timeout=10) as reply:
        text = reply.read().decode()
    samples: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            samples.setdefault(sample.name, []).append((sample.labels, sample.value))
            known = seen.setdefault(sample.name, [])
            if sample.labels not in known:
                known.append(sample.labels)
    return samples


@pytest.fixture(scope="module")
def told(
    token_cluster: TokenCluster, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Seen, dict[str, list[tuple[dict[str, str], float]]]]]:
    """Every series seen during a run, and the last samples of the node's agent."""
    folder = tmp_path_factory.mktemp("monitored")
    collection = Collection(folder, documents=80, queries=10)
    bad = [*collection.documents, {"_id": "empty", "text": ""}]
    write_jsonl(folder / "corpus.jsonl", bad)
    plain = collection.config(
        folder / "lake",
        corpus={"path": str(folder / "corpus.jsonl"), "reject_budget": 0.1},
        encoder={"model": "builtin:minilm"},
        rerank={"model": "builtin:reranker", "depth": 10},
        cluster={"executor": "ray", "pools": {"general": {"workers": 1}, "model": {"workers": 1}}},
        budget={"usd": 100.0, "usd_per_hour": 10.0},
    )
    config = folder / "config.yaml"
    config.write_text(json.dumps(plain))
    seen: Seen = {}
    last: dict[str, list[tuple[dict[str, str], float]]] = {}
    running = threading.Event()

    def watch() -> None:
        while not running.wait(0.1):
            last.update(scrape(token_cluster.metrics, seen))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        env = {**token_cluster.env, "RAY_ADDRESS": token_cluster.gcs}
        # Models load in under a second: reports a second apart missed whole stages of the run.
        env["RAY_metrics_report_interval_ms"] = "200"
        # The second asks for two more pairs a query; the store of scores knows the others.
        for depth in ("10", "12"):
            done = nightrank("run", str(config), "--set", f"rerank.depth={depth}", env=env)
            assert done.returncode == 0, done.stderr
    finally:
        running.set()
        watcher.join()
    with exporting(config) as url:
        last.update(scrape(url, seen))
    yield seen, last


class exporting:
    """The exporter over one config, as a process."""

    def __init__(self, config: Path) -> None:
        self.port = free_port()
        command = [sys.executable, "-m", "nightrank", "exporter", str(config)]
        self._process = subprocess.Popen(
            [*command, "--port", str(self.port)], stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> str:
        assert self._process.stdout
        assert "metrics of" in self._process.stdout.readline()
        return f"http://127.0.0.1:{self.port}/metrics"

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        assert self._process.wait(20) == 143
        assert self._process.stdout
        self._process.stdout.close()


def selectors(expression: str) -> list[Any]:
    """Every vector selector of a PromQL expression; raises where it does not parse."""
    # Grafana's own variables, given a value.
    text = expression.replace("$__rate_interval", "5m").replace("$lake", "tiny")
    found: list[Any] = []

    def visit(node: Any) -> None:
        if isinstance(node, promql_parser.VectorSelector):
            found.append(node)

    promql_parser.walk(promql_parser.parse(text), visit)
    return found


def queries() -> list[tuple[str, str]]:
    board = json.loads((BASE / "dashboard.json").read_text())
    found = [
        (f"panel {panel['title']}", target["expr"])
        for panel in board["panels"]
        for target in panel.get("targets", [])
    ]
    rule = list(yaml.safe_load_all((BASE / "monitoring.yaml").read_text()))[1]
    for group in rule["spec"]["groups"]:
        found += [(f"alert {r['alert']}", r["expr"]) for r in group["rules"]]
    return found


def test_every_panel_and_alert_asks_for_what_a_run_tells(told: Any) -> None:
    seen, _ = told
    asked = queries()
    assert len(asked) > 30
    missing = []
    for where, expression in asked:
        for selector in selectors(expression):
            wanted = {m.name: m.value for m in selector.matchers.matchers}
            series = seen.get(selector.name, OF_JOBS.get(selector.name, []))
            if not any(labels.items() >= wanted.items() for labels in series):
                missing.append(f"{where}: {selector}")
    assert not missing, "\n".join(missing)


def test_every_label_that_is_grouped_by_is_there(told: Any) -> None:
    seen, _ = told
    for where, expression in queries():
        for grouped in re.findall(r"by \(([^)]*)\)", expression):
            names = {name.strip() for name in grouped.split(",")} - ADDED
            for selector in selectors(expression):
                series = seen.get(selector.name, OF_JOBS.get(selector.name, []))
                assert series and all(names <= set(labels) for labels in series), where


def test_the_counts_are_the_runs(told: Any) -> None:
    seen, last = told
    pairs = {labels["source"]: value for labels, value in last["ray_nightrank_pairs_total"]}
    assert pairs == {"model": 20, "store": 100}  # 10 queries; the last of two runs.
    units = {labels["stage"]: value for labels, value in last["ray_nightrank_units_total"]}
    assert units["rerank"] == 1
    rejected = [labels["stage"] for labels in seen["ray_nightrank_rejects_total"]]
    assert set(rejected) == {"ingest corpus"}
    # The encoder and the reranker: two loads by the one worker that holds models.
    loads = {labels["stage"] for labels in seen["ray_nightrank_worker_loads_total"]}
    assert {"embed documents", "rerank"} <= loads
    kinds = {labels["kind"] for labels in seen["ray_nightrank_model_tokens_total"]}
    assert kinds == {"text", "padding"}
    for gauge in ("waiting", "running", "failed", "retried"):
        values = [value for _, value in last[f"ray_nightrank_units_{gauge}"]]
        assert values and set(values) == {0}


def test_the_exporter_says_how_old_the_newest_generation_is(told: Any) -> None:
    _, last = told
    ages = {labels["log"]: value for labels, value in last["nightrank_generation_age_seconds"]}
    assert set(ages) == {"results", "index"} and all(0 < age < 600 for age in ages.values())
    assert last["nightrank_lake_readable"] == [({"lake": "tiny"}, 1.0)]
    rows = {labels["table"]: value for labels, value in last["nightrank_generation_rows"]}
    assert rows["ranked"] == 50 and rows["rejects"] == 1


def test_without_a_generation_there_is_no_age_and_an_alert_for_that(
    tmp_path: Path, collection: Collection, write_config: Callable[..., str]
) -> None:
    config = Path(write_config(collection.config(tmp_path / "empty")))
    with exporting(config) as url:
        samples = scrape(url, {})
    assert "nightrank_generation_age_seconds" not in samples
    assert samples["nightrank_lake_readable"] == [({"lake": "tiny"}, 1.0)]
    absent = [e for where, e in queries() if where == "alert NightrankGenerationAbsent"]
    assert absent and absent[0].startswith("absent(nightrank_generation_age_seconds")


def test_a_lake_that_cannot_be_read_is_told_and_survived(
    tmp_path: Path, collection: Collection, write_config: Callable[..., str]
) -> None:
    config = Path(write_config(collection.config(tmp_path / "lake")))
    entry = tmp_path / "lake/tiny/results/_log" / f"{1:020d}.json"
    entry.parent.mkdir(parents=True)
    entry.write_text("{")
    with exporting(config) as url:
        for _ in range(2):
            samples = scrape(url, {})
            assert samples["nightrank_lake_readable"] == [({"lake": "tiny"}, 0.0)]
            assert "nightrank_generation_age_seconds" not in samples


def test_the_exporter_refuses_a_port_in_use_in_one_line(
    tmp_path: Path, collection: Collection, write_config: Callable[..., str]
) -> None:
    config = write_config(collection.config(tmp_path / "lake"))
    with exporting(Path(config)) as url:
        port = url.rpartition(":")[2].partition("/")[0]
        refused = nightrank("exporter", config, "--port", port)
    assert refused.returncode == 2 and "error[E_USAGE]" in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1


def test_health_checks_answer_without_the_token(token_cluster: TokenCluster) -> None:
    cluster = yaml.safe_load((BASE / "cluster.yaml").read_text())["spec"]
    head = cluster["headGroupSpec"]["template"]["spec"]["containers"][0]
    workers = [g["template"]["spec"]["containers"][0] for g in cluster["workerGroupSpecs"]]
    checks = {(token_cluster.address, head[kind]["httpGet"]["path"]) for kind in PROBES}
    for worker in workers:
        checks |= {(token_cluster.agent, worker[k]["httpGet"]["path"]) for k in PROBES}
    assert len(checks) == 2
    for address, path in checks:
        with urllib.request.urlopen(address + path, timeout=10) as reply:
            assert reply.status == 200 and reply.read() == b"success"


def test_the_dashboard_is_one_that_grafana_takes() -> None:
    board = json.loads((BASE / "dashboard.json").read_text())
    assert board["uid"] and board["schemaVersion"] >= 36
    panels = board["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    variables = {v["name"] for v in board["templating"]["list"]}
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24 and not cells & taken, panel["title"]
        taken |= cells
        assert panel["type"] in ("row", "stat", "timeseries")
        if panel["type"] != "row":
            assert panel["targets"] and panel["datasource"]["uid"] == "${datasource}"
            refs = [target["refId"] for target in panel["targets"]]
            assert len(set(refs)) == len(refs)
            used = set(re.findall(r"\$(\w+)", "".join(t["expr"] for t in panel["targets"])))
            assert used - {"__rate_interval"} <= variables


def test_each_alert_has_its_paragraph_in_the_runbook() -> None:
    book = (INFRA / "RUNBOOK.md").read_text()
    anchors = {re.sub(r"[^a-z0-9 -]", "", h.lower()) for h in re.findall(r"^#+ (.+)$", book, re.M)}
    rule = list(yaml.safe_load_all((BASE / "monitoring.yaml").read_text()))[1]
    alerts = [r for group in rule["spec"]["groups"] for r in group["rules"]]
    assert len(alerts) >= 8
    for alert in alerts:
        path, _, anchor = alert["annotations"]["runbook"].partition("#")
        assert path == "infra/RUNBOOK.md" and anchor in anchors, alert["alert"]
        assert anchor == alert["alert"].lower()


def test_the_runbook_knows_every_exit_code_and_every_verb_it_names() -> None:
    book = (INFRA / "RUNBOOK.md").read_text()
    told = {
        int(code) for row in re.findall(r"^\| ([\d, ]+) \|", book, re.M) for code in row.split(",")
    }
    assert told >= {0, *EXIT_CODES.values(), 130, 143}
    registered = {command.name for command in app.registered_commands}
    assert set(re.findall(r"`nightrank ([a-z-]+)", book)) <= registered
