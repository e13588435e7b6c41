"""Links that leave docs/ work on the site as they do on a code host."""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

# Pages of the site that lie elsewhere in the repository; all other files linked to are copied.
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "skipkv/tiny/weights/README.md": "tiny.md",
    "skipkv/tiny/rambler/weights/README.md": "rambler-model.md",
}
_LINK = re.compile(r"(\]\()([^)\s#]+)(#[^)\s]*)?(\))")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that lie outside docs/, and the files that pages link to."""
    root = _root(config)
    for source, uri in PAGES.items():
        if files.get_file_from_path(uri) is None:
            files.append(File.generated(config, uri, abs_src_path=str(root / source)))
    for page in list(files.documentation_pages()):
        for _, target, *_ in _LINK.findall(page.content_string):
            path = _in_repository(page.src_uri, target)
            uri = _on_site(path)
            if (root / path).is_file() and files.get_file_from_path(uri) is None:
                files.append(File.generated(config, uri, abs_src_path=str(root / path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, **kwargs: Any) -> str:
    """Turn links to files of the repository into links within the site."""
    root, here = _root(config), posixpath.dirname(page.file.src_uri)

    def moved(match: re.Match[str]) -> str:
        path = _in_repository(page.file.src_uri, match[2])
        if not (root / path).is_file():
            return match[0]
        uri = posixpath.relpath(_on_site(path), here or ".")
        return f"{match[1]}{uri}{match[3] or ''}{match[4]}"

    return _LINK.sub(moved, markdown)


def _root(config: MkDocsConfig) -> Path:
    return Path(config.config_file_path).parent


def _in_repository(uri: str, target: str) -> str:
    """The path from the repository's root of what a page links to."""
    homes = {page: source for source, page in PAGES.items() if page != "index.md"}
    home = homes.get(uri, f"docs/{uri}")
    return posixpath.normpath(posixpath.join(posixpath.dirname(home), target))


def _on_site(path: str) -> str:
    return PAGES.get(path) or (path[5:] if path.startswith("docs/") else f"repository/{path}")
