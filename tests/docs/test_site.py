"""The site builds strictly and loads nothing from elsewhere; links of the top pages resolve."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from mkdocs.commands.build import build
from mkdocs.config import load_config

from tests.support.pages import REPOSITORY, fenced, page

TOP = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md"]
LINK = re.compile(r"\]\(([^)\s]+)\)")
# A tag that makes a browser fetch its address.
LOADING = {"script": "src", "img": "src", "iframe": "src", "link": "href", "source": "src"}


class Tags(HTMLParser):
    """Ids of a page, and the addresses that it loads."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.loaded: list[str] = []
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.ids.add(values.get("id") or "")
        self.loaded.append(values.get(LOADING.get(tag, "")) or "")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    config = load_config(str(REPOSITORY / "mkdocs.yml"), site_dir=str(folder), strict=True)
    build(config)
    return folder


def test_a_strict_build_has_every_page(site: Path) -> None:
    sources = sorted((REPOSITORY / "docs").rglob("*.md"))
    assert len(sources) > 25
    built = [source.relative_to(REPOSITORY / "docs").with_suffix(".html") for source in sources]
    assert [path for path in built if not (site / path).is_file()] == []


def test_pages_load_nothing_from_elsewhere(site: Path) -> None:
    for file in site.rglob("*.html"):
        elsewhere = [url for url in Tags(file).loaded if re.match(r"(https?:)?//", url)]
        assert not elsewhere, file
    styles = "".join(file.read_text() for file in site.rglob("*.css"))
    assert not re.search(r"url\([\"']?(https?:)?//|@import", styles)


@pytest.mark.parametrize("name", TOP)
def test_links_of_the_top_pages_resolve(name: str, site: Path) -> None:
    links = LINK.findall(page(name))
    assert links
    for link in links:
        path, _, anchor = link.partition("#")
        assert (REPOSITORY / path).is_file(), link
        if anchor:
            html = site / Path(path).relative_to("docs").with_suffix(".html")
            assert anchor in Tags(html).ids, link


def test_the_readme_fits_on_one_page() -> None:
    text = page("README.md")
    assert len(text.splitlines()) <= 125
    (config,) = [block for block in fenced(text) if block.language == "yaml"]
    assert len(config.text.splitlines()) <= 10
