"""`python -m nightrank VERB ...`, `nightrank VERB ...`: where the program begins."""

from nightrank.process.search_path import leave_out_working_directory


def main() -> None:
    """Entry point of the console script; before it loads anything that is not Python's own."""
    leave_out_working_directory()
    from nightrank.cli.app import main as program

    program()


if __name__ == "__main__":
    main()
