"""Runs the pipeline on a corpus and queries.

`ray job submit --working-dir . -- python jobs/run.py CONFIG`
takes the options of `nightrank run`.
"""

import sys

from nightrank.__main__ import main

if __name__ == "__main__":
    sys.argv.insert(1, "run")
    main()
