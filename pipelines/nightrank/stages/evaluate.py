"""Measures a published generation: what the first stage gave, and what reranking made of it.

In: full-depth lists, query_ids, judgements. Out: `per_query` (one row per query, run and measure),
`report` (HTML), and in the record the means, movement and a table to print. Cardinality: one. Knows
nothing about: how the lists were made.

The mean runs over the judged queries that the input held; one that was rejected counts as 0. The
ceiling is the first stage's pool in its best possible order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from nightrank.datasets.current_corpus import CurrentCorpus
from nightrank.datasets.fan_out import by_query_id, document_column, document_files
from nightrank.datasets.judgements import load_qrels, look_up
from nightrank.errors import NightrankError
from nightrank.evaluation import lift, measures, movement
from nightrank.evaluation.coverage import Coverage, describe
from nightrank.evaluation.report import Candidate, Example, Report, render
from nightrank.runtime.identity import outside_identity
from nightrank.runtime.stage import Declaration, Task
from nightrank.storage.dataset import Blob, FileRef, Manifest, Payload
from nightrank.storage.reader import Reader

CUTOFF = 10
EXAMPLES = 3
SHOWN = 3


@dataclass(frozen=True)
class Inputs:
    """What is measured.

    Attributes:
        ranked: path of the last rank stage's dataset.
        qrels_id: identity of the judgements.
        measures: names of the measures.
        sources: what is read; None where the path of the dataset alone is wanted.
    """

    ranked: str
    qrels_id: str
    measures: tuple[str, ...]
    sources: Sources | None = outside_identity(None)


@dataclass(frozen=True)
class Sources:
    """What an evaluation reads.

    Attributes:
        ranked: the last rank stage's manifest.
        distinct: the distinct queries.
        corpus: the documents.
        rejects: published files of rejects.
        settings: what the worker needs.
    """

    ranked: Manifest
    distinct: Manifest
    corpus: CurrentCorpus
    rejects: list[FileRef]
    settings: Settings


@dataclass(frozen=True)
class Settings:
    """Judgements and measures; title and facts of the report."""

    qrels: str
    options: dict[str, Any]
    measures: tuple[str, ...]
    title: str
    facts: dict[str, str]


@dataclass(frozen=True)
class QueryShard:
    """Lists, query_ids and texts of one query shard."""

    pool: FileRef
    members: FileRef
    queries: FileRef


@dataclass(frozen=True)
class Args:
    """All query shards, published rejects, document files by segment, and the corpus."""

    shards: list[QueryShard]
    rejects: list[FileRef]
    documents: dict[int, list[FileRef]]
    corpus: CurrentCorpus


def tasks(inputs: Inputs) -> list[Task[Args]]:
    """One task: judged queries are few."""
    sources = inputs.sources
    assert sources is not None
    shards = [
        QueryShard(lists.files["pool"], texts.files["members"], texts.files["queries"])
        for lists, texts in zip(sources.ranked.shards, sources.distinct.shards, strict=True)
    ]
    documents = document_files(sources.corpus.documents)
    return [Task("evaluation", Args(shards, sources.rejects, documents, sources.corpus))]


class Worker:
    """Holds the judgements."""

    def __init__(self, settings: Settings, threads: int) -> None:
        self._qrels = load_qrels(settings.qrels, settings.options)
        self._measures = list(settings.measures)
        self._title, self._facts = settings.title, settings.facts

    def __call__(self, task: Task[Args], read: Reader) -> Payload:
        """Compares three runs of the same pool: as retrieved, as reranked, as good as can be."""
        judged = pc.unique(self._qrels["query_id"])
        lists, verticals, texts = self._lists(task, read, judged)
        held = pa.array([*verticals, *self._rejected(task, read, judged)], pa.string())
        first = lists.set_column(
            lists.schema.get_field_index("score"), "score", lists["first_stage_score"]
        )
        covered = [
            look_up(pc.unique(self._qrels["doc_id"]), task.args.corpus, read),
            self._queries(judged, held, task, read),
        ]
        if not len(held):
            raise NightrankError("E_EMPTY", covered[1].warning, "evaluate.qrels", "correct the ids")
        best = measures.ceiling(self._qrels, lists)
        runs = {"first_stage": first, "reranked": lists, "ceiling": best}
        per_query = measures.evaluate(self._qrels, runs, self._measures, held)
        lifts = {m: lift.summarise(per_query, m, verticals) for m in self._measures}
        before = lists.select(["query_id", "doc_id", "first_stage_rank"])
        before = before.rename_columns(["query_id", "doc_id", "rank"])
        moves = movement.totals(
            movement.movement(self._qrels, before, lists, CUTOFF, held), verticals
        )
        examples = self._examples(per_query, lists, texts, task, read)
        facts = {**self._facts, **{f"judged {c.kind} {c.place}": c.share for c in covered}}
        warnings = [one.warning for one in covered if one.warning]
        shown = Report(self._title, lifts, moves, CUTOFF, examples, facts, warnings)
        page = render(shown).encode()
        stats = {
            "measures": {name: _overall(table) for name, table in lifts.items()},
            "details": {
                "lifts": {name: table.to_pylist() for name, table in lifts.items()},
                "movement": moves,
            },
            "judgements": {one.kind: one.to_dict() for one in covered},
            "summary": "\n".join([_summary(lifts, moves), *describe(covered)]),
        }
        files: dict[str, Any] = {"per_query": per_query}
        files["report"] = Blob(lambda file: file.write(page), extension="html")
        return Payload(files, stats)

    def _lists(
        self, task: Task[Args], read: Reader, judged: pa.Array
    ) -> tuple[pa.Table, dict[str, str], dict[str, str]]:
        """Full lists of the judged queries, and every judged query's vertical and text."""
        parts: list[pa.Table] = []
        verticals: dict[str, str] = {}
        texts: dict[str, str] = {}
        for shard in task.args.shards:
            members = read.table(shard.members, ["query_id", "query", "vertical"])
            members = members.filter(pc.is_in(members["query_id"], judged))
            parts.append(by_query_id(read.table(shard.pool), members))
            query_texts = read.table(shard.queries, ["text"])["text"].take(members["query"])
            ids = members["query_id"].to_pylist()
            verticals |= dict(zip(ids, members["vertical"].to_pylist(), strict=True))
            texts |= dict(zip(ids, query_texts.to_pylist(), strict=True))
        return pa.concat_tables(parts), verticals, texts

    def _rejected(self, task: Task[Args], read: Reader, judged: pa.Array) -> list[str]:
        """Judged queries that the input held but that were rejected; a missing list counts as 0."""
        tables = [read.table(ref, ["kind", "id", "reason"]) for ref in task.args.rejects]
        table = pa.concat_tables(tables)
        mine = pc.and_(pc.equal(table["kind"], "queries"), pc.is_in(table["id"], judged))
        mine = pc.and_(mine, pc.not_equal(table["reason"], "duplicate_id"))
        return [str(value) for value in pc.unique(table["id"].filter(mine)).to_pylist()]

    def _queries(
        self, judged: pa.Array, held: pa.Array, task: Task[Args], read: Reader
    ) -> Coverage:
        """How many judged queries the input held; an id of the input to compare with."""
        least = ""
        for shard in task.args.shards:
            ids = read.table(shard.members, ["query_id"])["query_id"]
            least = least or pc.min(ids).as_py() or ""
        return Coverage.of("queries", len(judged), judged, pc.is_in(judged, held), least)

    def _examples(
        self,
        per_query: pa.Table,
        lists: pa.Table,
        texts: dict[str, str],
        task: Task[Args],
        read: Reader,
    ) -> list[Example]:
        """A few queries (see `pick`) with the head of their lists before and after."""
        relevance = {
            (row["query_id"], row["doc_id"]): row["relevance"]
            for row in self._qrels.filter(
                pc.is_in(self._qrels["query_id"], pa.array(texts, pa.string()))
            ).to_pylist()
        }
        examples = []
        for query_id in pick(per_query, self._measures[0]):
            if query_id not in texts:
                continue
            mine = lists.filter(pc.equal(lists["query_id"], query_id))
            near = pc.or_(
                pc.less_equal(mine["rank"], SHOWN), pc.less_equal(mine["first_stage_rank"], SHOWN)
            )
            mine = mine.filter(near).sort_by("rank")
            files, places = task.args.documents, mine["ordinal"]
            shown = [document_column(name, places, files, read) for name in ("title", "text")]
            candidates = [
                Candidate(
                    row["doc_id"],
                    (title or text)[:160],
                    relevance.get((query_id, row["doc_id"])),
                    row["first_stage_rank"],
                    row["rank"],
                )
                for row, title, text in zip(
                    mine.to_pylist(), *(c.to_pylist() for c in shown), strict=True
                )
            ]
            examples.append(Example(query_id, texts[query_id], candidates))
        return examples


def pick(per_query: pa.Table, measure: str) -> list[str]:
    """Query ids of the most improved, a middling improved and the most worsened query.

    All three, so that the best case is not taken for the rule.
    """
    table = per_query.filter(pc.equal(per_query["measure"], measure))
    by_run = {
        run: table.filter(pc.equal(table["run"], run)).sort_by("query_id")
        for run in ("first_stage", "reranked")
    }
    change = pc.subtract(by_run["reranked"]["value"], by_run["first_stage"]["value"])
    ids = by_run["reranked"]["query_id"]
    order = pc.sort_indices(change, [("", "descending")]).to_pylist()
    improved = [i for i in order if change[i].as_py() > 0]
    middle = improved[len(improved) // 2] if improved else order[len(order) // 2]
    return [ids[i].as_py() for i in dict.fromkeys([order[0], middle, order[-1]])][:EXAMPLES]


def _overall(table: pa.Table) -> dict[str, Any]:
    row = table.to_pylist()[0]
    return {name: row[name] for name in ("first_stage", "reranked", "ceiling")}


def _summary(lifts: dict[str, pa.Table], moves: dict[str, dict[str, int]]) -> str:
    """A table for the terminal."""
    lines = [f"{'':<24}{'queries':>8}{'first':>8}{'rerank':>8}{'ceiling':>8}{'lift':>8}  95 %"]
    for measure, table in lifts.items():
        for row in table.to_pylist():
            name = measure if row["vertical"] == lift.ALL else f"  {row['vertical']}"
            lines.append(
                f"{name[:24]:<24}{row['num_queries']:>8}{row['first_stage']:>8.4f}"
                f"{row['reranked']:>8.4f}{row['ceiling']:>8.4f}{row['lift']:>+8.4f}"
                f"  [{row['lift_low']:+.4f}, {row['lift_high']:+.4f}]"
            )
    total = moves["all"]
    lines.append(
        f"top {CUTOFF}: {total['false_positives_demoted']} false positives demoted, "
        f"{total['false_negatives_promoted']} false negatives promoted, "
        f"{total['harmful_moves']} relevant documents lost; "
        f"{total['lost_at_retrieval']} were never retrieved"
    )
    return "\n".join(lines)


def settings_of(inputs: Inputs) -> Settings:
    """What the worker needs of the inputs."""
    assert inputs.sources is not None
    return inputs.sources.settings


STAGE = Declaration(
    name="evaluate",
    version=3,
    pool="general",
    scales_with="queries",
    tasks=tasks,
    worker=Worker,
    settings=settings_of,
    schemas=lambda inputs: {"per_query": measures.PER_QUERY_SCHEMA},
)
