"""What the site needs beside the pages: they are written for the repository, and its docstrings for Sphinx's roles."""

from __future__ import annotations

import posixpath
import re
from typing import Any

ROLE = re.compile(r":(?:func|class|meth|mod|attr|data|obj|exc):(<code>)~?")
LINK = re.compile(r"(?<!!)\[([^\]]*)\]\((\.\./[^)#\s]*)(#[^)]*)?\)")
PAGES: list[Any] = []  # in the order of the navigation


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    folder = posixpath.dirname(page.file.src_uri)

    def outside(link: re.Match[str]) -> str:
        """A link to a file beside docs/ leads to the repository; where its address is not known, it is text."""
        path = posixpath.normpath(posixpath.join("docs", folder, link[2]))
        if path.split("/")[0] == "docs":
            return link[0]
        return f"[{link[1]}]({config.repo_url}/blob/main/{path})" if config.repo_url else link[1]

    return LINK.sub(outside, markdown)


def on_page_content(html: str, **_: Any) -> str:
    return ROLE.sub(r"\1", html)


def on_nav(nav: Any, **_: Any) -> Any:
    PAGES[:] = nav.pages
    return nav


def on_post_build(config: Any) -> None:
    """llms.txt (llmstxt.org): every page with its title and sections, in the order of the navigation."""
    lines = [f"# {config.site_name}", "", f"> {config.site_description}", ""]
    section = None
    for page in PAGES:
        above = page.ancestors[-1].title if page.ancestors else ""
        if above != section:
            section = above
            lines += ["", f"## {section}", ""]
        lines.append(f"- [{page.title}]({page.canonical_url or page.url or './'}): {_says(page.markdown)}")
    with open(posixpath.join(config.site_dir, "llms.txt"), "w", encoding="utf-8") as out:
        out.write("\n".join(lines) + "\n")


def _says(markdown: str) -> str:
    """The page's own title, and what its sections are called."""
    text = re.sub(r"```.*?```", "", markdown, flags=re.DOTALL)
    title, *_ = re.findall(r"^# (.*)$", text, re.MULTILINE)
    sections = re.findall(r"^## (.*)$", text, re.MULTILINE) or re.findall(r"^::: \S+\.(\w+)$", text, re.MULTILINE)
    return f"{title} ({'; '.join(sections)})" if sections else title
