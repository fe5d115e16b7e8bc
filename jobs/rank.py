"""Ranks queries against an existing index.

`ray job submit --working-dir . -- python jobs/rank.py CONFIG`
takes the options of `nightrank rank`.
"""

import sys

from nightrank.cli.app import main

if __name__ == "__main__":
    sys.argv.insert(1, "rank")
    main()
