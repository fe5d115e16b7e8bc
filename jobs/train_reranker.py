"""Trains a cross-encoder.

`ray job submit --working-dir . -- python jobs/train_reranker.py CONFIG`
takes the options of `nightrank train-reranker`.
"""

import sys

from nightrank.cli.app import main

if __name__ == "__main__":
    sys.argv.insert(1, "train-reranker")
    main()
