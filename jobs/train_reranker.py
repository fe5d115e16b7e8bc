"""Trains a cross-encoder.

`ray job submit --working-dir . -- python jobs/train_reranker.py CONFIG`
takes the options of `nightrank train-reranker`.
"""

import sys

from nightrank.__main__ import main

if __name__ == "__main__":
    sys.argv.insert(1, "train-reranker")
    main()
