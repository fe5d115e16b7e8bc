"""Ranks queries against an existing index.

`ray job submit --working-dir . -- python jobs/rank.py CONFIG`
takes the options of `nightrank rank`.
"""

import sys

from nightrank.__main__ import main

if __name__ == "__main__":
    sys.argv.insert(1, "rank")
    main()
