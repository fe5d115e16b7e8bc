"""Ablation of the built-in reranker's training: short trainings that differ in one setting each.

    python -m benchmarks.recipe --data DATA --work WORK --out benchmarks/results

Every variant is `nightrank train-reranker` on the shipped configuration, cut to `--steps`, with the
overrides below; the trained model then reranks through the pipeline, as `benchmarks.quality` does,
on collections that training does not use. A variant without a vertical leaves out every
training collection of that kind and is measured on all sets of that kind. `raw over base` compares
on the sets that both are measured on. An interrupted run resumes.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import quality
from benchmarks.arguments import need_collections
from benchmarks.reporting import machine, table
from nightrank.config.file import load_section
from nightrank.config.training import TrainConfig
from nightrank.training import job

CONFIG = "configs/train_reranker.yaml"
LEFT_OUT = tuple(name for name, _, _, left_out in quality.COLLECTIONS if left_out)
SHOWN = ("dense", "first_stage", "raw")
Measured = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Variant:
    """One training.

    Attributes:
        measured: collections to measure it on.
        sets: overrides of the config.
        without: training collections left out.
    """

    measured: tuple[str, ...] = LEFT_OUT
    sets: tuple[str, ...] = ()
    without: tuple[str, ...] = ()


VARIANTS = {
    "base": Variant(),
    "untrained": Variant(sets=("steps=1", "learning_rate=1.0e-12")),
    "rate: 1e-4": Variant(sets=("learning_rate=1.0e-4",)),
    "loss: margin": Variant(sets=("loss=margin",)),
    "negatives: dense list only": Variant(sets=("bm25_weight=0",)),
    "length: 128 tokens": Variant(sets=("max_length_tokens=128",)),
    "head: classifier": Variant(sets=("head=classifier",)),
    "no legal collection": Variant(("cuad-dev", "policyqa-dev"), without=("cuad",)),
    "no medical collection": Variant(
        ("medquad", "liveqa-med", "nfcorpus"), without=("medquad", "pubmedqa")
    ),
    "no finance collection": Variant(("tatqa-dev", "financebench-dev"), without=("tatqa",)),
    "no science collection": Variant(("scifact", "cranfield"), without=("scifact",)),
}


def train(variant: Variant, steps: int, data: Path, work: Path, output: Path) -> dict[str, Any]:
    """Trains a variant unless an earlier run did; its report."""
    report = output / "report.json"
    if not report.exists():
        sets = [f"data={data}", f"output={output}", f"work={work / 'training'}", f"steps={steps}"]
        sets += [f"warmup_steps={max(1, steps // 10)}", "checkpoint_every=1000", *variant.sets]
        config = load_section(TrainConfig, CONFIG, sets)
        kept = [
            part.model_copy(
                update={"dev_queries": 0}
            )  # The measured collections are held out already.
            for part in config.collections
            if part.name not in variant.without
        ]
        job.train(config.model_copy(update={"collections": kept}))
    return dict(json.loads(report.read_text()))


def row_of(name: str, measured: Measured, base: Measured) -> dict[str, Any]:
    """A variant's means over its collections, and the lift of its raw scores over the base's."""
    parts = list(measured.values())
    beside = [
        {"values": {"raw": measured[n]["values"]["raw"], "dense": base[n]["values"]["raw"]}}
        for n in measured
        if n in base
    ]
    return {
        "variant": name,
        "collections": list(measured),
        **{r: float(np.mean([np.mean(p["values"][r]) for p in parts])) for r in SHOWN},
        "raw_lift": quality.lift(parts, "raw", name),
        "raw_over_base": quality.lift(beside, "raw", name) if beside else None,
        "weight_curve": quality.curve(parts, "weight_curve"),
    }


def as_markdown(rows: list[dict[str, Any]]) -> str:
    """One line a variant."""
    titles = ["variant", "sets", *SHOWN, "raw over dense", "raw over base", "95 %"]
    titles += list(rows[0]["weight_curve"])
    names = {LEFT_OUT: "left out"}
    lines = []
    for row in rows:
        sets = tuple(row["collections"])
        against = row["raw_over_base"]
        cells = [row["variant"], names.get(sets, ", ".join(sets))]
        cells += [f"{row[run]:.3f}" for run in SHOWN]
        cells += [f"{row['raw_lift']['lift']:+.1%}"]
        if against:
            interval = f"{against['low']:+.1%} to {against['high']:+.1%}"
        cells += [f"{against['lift']:+.1%}", interval] if against else ["", ""]
        lines.append([*cells, *(f"{value:.3f}" for value in row["weight_curve"].values())])
    return table(titles, lines)


def main() -> None:
    parser = quality.arguments(__doc__)
    parser.add_argument("--queries", type=int, default=50)
    parser.add_argument("--depth", type=int, default=50)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--only", nargs="*", default=list(VARIANTS))
    plain = vars(parser.parse_args())
    logging.basicConfig(format="%(asctime)s %(message)s")
    logging.getLogger("nightrank.train").setLevel(logging.INFO)
    out, only, steps = (plain.pop(name) for name in ("out", "only", "steps"))
    settings = quality.Settings(**plain, model="")
    settings.work.mkdir(parents=True, exist_ok=True)
    splits = {name: split for name, split, *_ in quality.COLLECTIONS}
    measured = {n for name in ("base", *only) for n in VARIANTS[name].measured}
    need_collections(parser, settings.data, [(name, splits[name]) for name in sorted(measured)])
    by_variant: dict[str, Measured] = {}
    trainings, rows = {}, []
    for name in dict.fromkeys(["base", *only]):
        variant = VARIANTS[name]
        folder = settings.work / "recipes" / name.replace(" ", "-").replace(":", "")
        report = train(variant, steps, settings.data.resolve(), settings.work, folder)
        trained = replace(settings, model=str(folder / "model"))
        by_variant[name] = {
            n: quality.chosen(quality.measure(n, splits[n], trained), 0.0) for n in variant.measured
        }
        rows.append(row_of(name, by_variant[name], by_variant["base"]))
        trainings[name] = {
            "sets": variant.sets,
            "without": variant.without,
            "training": report["training"],
        }
        result = {
            **machine(),
            "measure": quality.MEASURE,
            "steps": steps,
            "rows": rows,
            "trainings": trainings,
        }
        (out / "recipe.json").write_text(json.dumps(result, indent=1) + "\n")
        (out / "recipe.md").write_text(as_markdown(rows))
        print(as_markdown(rows), flush=True)


if __name__ == "__main__":
    main()
