# %% [markdown]
# # Which BM25 weight?
# A notebook as a script: run the cells in an editor that knows `# %%`, or `python sweep.py`.

# %%
import nightrank

config = nightrank.load_config(
    {
        "name": "sweep",
        "root": "lake",
        "corpus": {"path": "../data/corpus"},
        "queries": {"path": "../data/queries.jsonl"},
        "retrieve": {"depth": 20},
        "rerank": {"model": "toy:overlap", "depth": 5, "first_stage_weight": 0.9},
        "evaluate": {"qrels": "../data/qrels.tsv", "measures": ["nDCG@5"]},
        "cluster": {"executor": "serial"},
    }
)

# %% [markdown]
# One run for each weight. The first embeds the documents and scores the pairs; the others score
# only pairs that are new.

# %%
results = {}
for weight in (0.0, 0.3, 0.6):
    override = {"retrieve.bm25.weight": weight}
    results[weight] = nightrank.run(config, override, progress=False)
    print(weight, repr(results[weight]), results[weight].work.pairs_scored, "pairs scored")

# %%
best = max(results, key=lambda weight: results[weight].measures["nDCG@5"].first_stage)
print("best weight:", best)

# %% [markdown]
# A result's tables are pyarrow datasets of its generation. Earlier ones stay readable.

# %%
top = results[best].ranked.to_table().to_pylist()[0]
print(top)

earlier = nightrank.read_results("lake", "sweep", generation=results[0.0].generation)
print(earlier.count_rows(), "rows in generation", results[0.0].generation)

# %% [markdown]
# Expected errors are `NightrankError`, with a code, what is wrong, where, and what to do.

# %%
try:
    nightrank.run(config, {"retrieve.depht": 50})
except nightrank.NightrankError as error:
    print(error.code, error.what)
