"""Updates the index alone.

`ray job submit --working-dir . -- python jobs/reindex.py CONFIG`
takes the options of `nightrank reindex`.
"""

import sys

from nightrank.__main__ import main

if __name__ == "__main__":
    sys.argv.insert(1, "reindex")
    main()
