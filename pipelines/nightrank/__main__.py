"""`python -m nightrank VERB ...` is `nightrank VERB ...`."""

from nightrank.cli.app import main

if __name__ == "__main__":
    main()
