# %% [markdown]
# # Results in DuckDB
# Run the cells in an editor that knows `# %%`, or the whole file by `python with_duckdb.py`.

# %%
import duckdb

from nightrank import read_results

# pyarrow datasets: DuckDB reads only the columns and rows that a query needs.
ranked = read_results("lake", "analytics")
queries = read_results("lake", "analytics", "queries")
qrels = duckdb.read_csv("../data/qrels.tsv", sep="\t")

# %% [markdown]
# ## How much does reranking move?
# Rows of the published top 3, and how many of them the first stage had below rank 3.

# %%
movement = duckdb.sql("""
    SELECT vertical, count(*) AS top_3, count_if(first_stage_rank > 3) AS promoted
    FROM ranked JOIN queries USING (query_id)
    WHERE rank <= 3 GROUP BY vertical ORDER BY vertical
""")
print(movement)

# %% [markdown]
# ## Is what it promotes relevant?
# Judged documents in the top 3, before and after reranking.

# %%
relevance = duckdb.sql("""
    SELECT vertical,
           count_if(first_stage_rank <= 3) AS before,
           count_if(rank <= 3) AS after
    FROM ranked
    JOIN qrels ON query_id = "query-id" AND doc_id = "corpus-id" AND qrels.score > 0
    JOIN queries USING (query_id)
    GROUP BY vertical ORDER BY vertical
""")
print(relevance)

# %% [markdown]
# ## Which teams' articles answer which questions?

# %%
teams = duckdb.sql("""
    PIVOT (SELECT vertical, team FROM ranked JOIN queries USING (query_id) WHERE rank <= 3)
    ON team USING count(*) GROUP BY vertical ORDER BY vertical
""")
print(teams)
