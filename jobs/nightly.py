"""Refreshes a lake at the cost of what changed.

`ray job submit --working-dir . -- python jobs/nightly.py CONFIG`
takes the options of `nightrank nightly`.
"""

import sys

from nightrank.__main__ import main

if __name__ == "__main__":
    sys.argv.insert(1, "nightly")
    main()
