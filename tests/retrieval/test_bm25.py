"""Terms and BM25, beside bm25s and a sum written out."""

import math
import random
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest

from nightrank.retrieval import bm25
from nightrank.retrieval.terms import Analyzer
from nightrank.storage.tokens import Tokens

WORDS = [f"word{i}" for i in range(60)] + ["the", "running", "runs", "run"]
K1, B = 0.9, 0.4


def texts(count, seed):
    rng = random.Random(seed)
    odds = [1 / (i + 1) for i in range(len(WORDS))]
    return [" ".join(rng.choices(WORDS, odds, k=rng.randint(0, 40))) for _ in range(count)]


@pytest.fixture(scope="module")
def corpus():
    return texts(300, 1)


def index_of(documents, statistics=None):
    terms = Analyzer("english")(documents)
    return bm25.build(terms, statistics or bm25.count([terms]), K1, B)


def test_words_become_stems_and_stop_words_go():
    analyze = Analyzer("english")
    tokens = analyze(["The runs, RUNNING run!", None, "", "a_b x 42", "naïve Ärzte"])
    assert tokens.lengths.tolist() == [3, 0, 0, 2, 2]
    assert len(set(tokens[0].tolist())) == 1 and (tokens.ids >= 0).all()
    assert analyze(pa.array(["runs"]))[0].tolist() == tokens[0].tolist()[:1]
    assert Analyzer("none")(["the run runs"]).lengths.tolist() == [3]
    assert len(set(Analyzer("none")(["run runs"]).ids.tolist())) == 2


def test_scores_are_those_of_bm25s(corpus):
    import bm25s
    import Stemmer

    stemmer = Stemmer.Stemmer("english")
    settings = {"stopwords": "en", "stemmer": stemmer, "show_progress": False}
    peer = bm25s.BM25(k1=K1, b=B)
    peer.index(bm25s.tokenize(corpus, **settings), show_progress=False)
    mine = index_of(corpus)
    queries = texts(30, 2)
    terms = Analyzer("english")(queries)
    compared = 0
    for i, query in enumerate(queries):
        asked = bm25s.tokenize([query], return_ids=False, **settings)[0]
        known = [word for word in asked if word in peer.vocab_dict]
        if known:
            expected = peer.get_scores(known)
            np.testing.assert_allclose(mine.scores(terms[i]), expected, rtol=1e-5, atol=1e-6)
            compared += 1
    assert compared > 20


def test_the_formula_by_hand():
    documents = ["apple apple pear", "pear", "plum plum plum plum"]
    found = index_of(documents).scores(Analyzer("english")(["apple pear pear"])[0])
    mean = 8 / 3

    def part(tf, df, length):
        idf = math.log(1 + (3 - df + 0.5) / (df + 0.5))
        return idf * tf / (tf + K1 * (1 - B + B * length / mean))

    assert found[0] == pytest.approx(part(2, 1, 3) + 2 * part(1, 2, 3), rel=1e-6)
    assert found[1] == pytest.approx(2 * part(1, 2, 1), rel=1e-6)
    assert found[2] == 0


def test_shards_under_frozen_statistics_score_as_the_whole(corpus):
    analyze = Analyzer("english")
    parts = [corpus[:90], corpus[90:100], corpus[100:]]
    statistics = bm25.count(analyze(part) for part in parts)
    whole = bm25.count([analyze(corpus)])
    assert statistics.documents == whole.documents == 300
    assert statistics.total_terms == whole.total_terms
    assert np.array_equal(statistics.terms, whole.terms)
    assert np.array_equal(statistics.frequencies, whole.frequencies)
    expected = index_of(corpus, whole)
    for query in analyze(texts(10, 3)).to_lists():
        asked = np.array(query, np.int32)
        found = [index_of(part, statistics).scores(asked) for part in parts]
        assert np.array_equal(np.concatenate(found), expected.scores(asked))


def test_frequencies_count_documents_not_words():
    terms = Analyzer("english")(["pear pear plum", "pear"])
    counted = bm25.count([terms])
    expected = Counter({int(terms[1][0]): 2, int(terms[0][2]): 1})
    assert dict(zip(counted.terms.tolist(), counted.frequencies.tolist(), strict=True)) == expected
    assert bm25.count([]).documents == 0


def test_nothing_to_search_and_unknown_words():
    empty = index_of([])
    assert len(empty.scores(np.array([5], np.int32))) == 0
    assert not index_of(["", ""]).scores(np.array([5], np.int32)).any()
    assert not index_of(["pear"]).scores(Analyzer("english")(["zebra"])[0]).any()
    one = Tokens.concatenate([Analyzer("english")(["pear"]), Analyzer("english")(["plum"])])
    assert len(one) == 2
