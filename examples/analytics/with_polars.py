# %% [markdown]
# # Results in Polars
# Run the cells in an editor that knows `# %%`, or the whole file by `python with_polars.py`.

# %%
import polars as pl

from nightrank import read_results

# Lazy: Polars reads only the columns and rows that a query needs.
ranked = pl.scan_pyarrow_dataset(read_results("lake", "analytics"))
queries = pl.scan_pyarrow_dataset(read_results("lake", "analytics", "queries"))

# %% [markdown]
# ## Which documents moved furthest?

# %%
moved = pl.col("first_stage_rank") - pl.col("rank")
furthest = (
    ranked.with_columns(moved.alias("places"))
    .sort(pl.col("places").abs(), "query_id", "rank", descending=[True, False, False])
    .select("query_id", "title", "first_stage_rank", "rank", "places")
    .head(5)
    .collect()
)
print(furthest)

# %% [markdown]
# ## How far apart are the first and the second document?
# A small margin means that the reranker hardly prefers one.

# %%
score = pl.col("score")
margins = (
    ranked.filter(pl.col("rank") <= 2)
    .group_by("query_id")
    .agg((score.max() - score.min()).alias("margin"))
    .join(queries.select("query_id", "vertical"), on="query_id")
    .sort("margin", "query_id")
    .collect()
)
print(margins.head(5))

# %% [markdown]
# ## Which articles answer most questions?

# %%
popular = (
    ranked.filter(pl.col("rank") == 1)
    .group_by("doc_id", "title")
    .agg(pl.len().alias("queries"))
    .sort("queries", "doc_id", descending=[True, False])
    .collect()
)
print(popular.head(5))
