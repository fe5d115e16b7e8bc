"""Arguments that benchmarks share, checked before anything is measured."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterable
from pathlib import Path

from benchmarks import beir

SEVERAL = f"a folder of collections, NAME/ with {beir.LAYOUT} each"


def add_out(parser: argparse.ArgumentParser, required: bool = False) -> None:
    """`--out`: a folder that is created and checked for writing when the arguments are parsed."""
    what = "folder of the results; created if it does not exist"
    parser.add_argument("--out", type=_results, required=required, metavar="FOLDER", help=what)


def add_data(parser: argparse.ArgumentParser, required: bool = False) -> None:
    """`--data`: a folder with at least one collection in BEIR layout."""
    parser.add_argument(
        "--data", type=_collections, required=required, metavar="FOLDER", help=SEVERAL
    )


def add_collection(parser: argparse.ArgumentParser, split: str = "") -> None:
    """`--data`: one collection in BEIR layout, with the judgements of `split` if it is given."""

    def collection(text: str) -> Path:
        folder = Path(text)
        if absent := beir.missing(folder, split):
            raise argparse.ArgumentTypeError(f"no {absent[0]}; expected: {beir.LAYOUT}")
        return folder

    what = f"one collection, a folder with {beir.LAYOUT}"
    parser.add_argument("--data", type=collection, required=True, metavar="FOLDER", help=what)


def need_collections(
    parser: argparse.ArgumentParser, data: Path, wanted: Iterable[tuple[str, str]]
) -> None:
    """Ends the program unless `data` has these collections with these splits' judgements."""
    absent = [file for name, split in wanted for file in beir.missing(data / name, split)]
    if absent:
        more = f" and {len(absent) - 1} more files" if absent[1:] else ""
        parser.error(f"argument --data: no {absent[0]}{more}; expected: {SEVERAL}")


def _results(text: str) -> Path:
    folder = Path(text)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        what = f"cannot write results into {folder}: {error.strerror}"
        raise argparse.ArgumentTypeError(what) from None
    return folder


def _collections(text: str) -> Path:
    folder = Path(text)
    if not beir.collections(folder):
        itself = ", which is a collection itself: name the folder above it"
        why = itself if not beir.missing(folder) else ""
        raise argparse.ArgumentTypeError(f"no collection in {folder}{why}; expected: {SEVERAL}")
    return folder
