"""The pages: links are alive, the navigation has every page and the reference every public name, snippets run, the site builds."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

import attention_refine as ar
from attention_refine import shapes

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
FENCE = re.compile(r"^( *)```.*?^\1```", re.DOTALL | re.MULTILINE)


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


# links ----------------------------------------------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    """Of every heading, as GitHub and the site write it, and of what a page names itself."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    found = set(re.findall(r'<\w+ id="([^"]+)"', text))
    for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE):
        heading = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        found.add(re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", heading.lower()).strip()))
    return found


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=name)
def test_every_link_leads_to_a_file_and_a_heading_that_are_there(page):
    text = re.sub(r"`[^`\n]*`", "", FENCE.sub("", page.read_text(encoding="utf-8")))
    dead = []
    for link in re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:src|href)="([^"]+)"', text):
        path, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", path):
            continue
        file = (page.parent / path).resolve() if path else page
        inside = file.is_relative_to(ROOT) and file.exists()
        if not inside or (anchor and file.suffix == ".md" and anchor not in anchors(file)):
            dead.append(link)
    assert not dead, f"{name(page)}: {', '.join(dead)}"


# navigation and reference ---------------------------------------------------------------------------------------------


def in_navigation() -> list[str]:
    """mkdocs.yml names no python object, so plain YAML reads it."""
    found: list[str] = []

    def walk(node) -> None:
        for value in node if isinstance(node, list) else node.values():
            walk(value) if isinstance(value, (list, dict)) else found.append(value)

    walk(yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"])
    return found


def test_the_navigation_has_every_page_once():
    assert sorted(in_navigation()) == [page.relative_to(DOCS).as_posix() for page in PAGES]


def public(path: str):
    """The object of a dotted path."""
    module, _, attribute = path.rpartition(".")
    return getattr(importlib.import_module(module), attribute)


def test_the_reference_has_every_public_name_once():
    wanted = {each for each in ar.__all__ if each not in ("backbones", "heads", "objectives", "__version__")}
    wanted -= {"data", "maps", "metrics"}
    wanted |= {f"{module}.{each}" for module in ("data", "maps", "metrics") for each in getattr(ar, module).__all__}
    text = "\n".join(page.read_text(encoding="utf-8") for page in (DOCS / "reference").glob("*.md"))
    listed = [public(each) for each in re.findall(r"^::: (\S+)$", text, re.MULTILINE)]
    left_out = [each for each in wanted if public(f"attention_refine.{each}") not in listed]
    assert not left_out, f"add '::: attention_refine.NAME' to a page of docs/reference/ for {', '.join(left_out)}"
    assert len(listed) == len({id(each) for each in listed})


# snippets -------------------------------------------------------------------------------------------------------------

# Networks of the same kind that build in a moment, without weights; nothing else of a page is changed.
INSTEAD = {
    '"resnet50"': '"test_resnet"',
    '"resnet18.a1_in1k"': '"test_resnet"',
    '"vit_small_patch16_224"': '"test_vit"',
    "pretrained=True": "pretrained=False",
    'site="blocks.1"': 'site="blocks.1"',
}
RUN = [DOCS / "faq.md", DOCS / "start.md", *sorted((DOCS / "howto").glob("*.md"))]
SNIPPET = re.compile(r"(<!-- not run: .*? -->\n)?```python\n(.*?)```", re.DOTALL)


@pytest.fixture
def reader(tmp_path, monkeypatch) -> dict:
    """What a page's reader has: a photograph, a folder, a batch with labels and masks."""
    import transformers

    torch.manual_seed(0)
    monkeypatch.chdir(tmp_path)
    tiny = transformers.ViTConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
                                  image_size=160, patch_size=16)  # fmt: skip
    monkeypatch.setattr(
        transformers.ViTForImageClassification, "from_pretrained",
        classmethod(lambda cls, *_: cls(tiny).eval()),
    )  # fmt: skip
    Image.new("RGB", (200, 180), (90, 140, 60)).save("photo.jpg")
    rows = {split: shapes.make(split, 12) for split in ("train", "test")}
    full_mask = torch.zeros(2, 1, 160, 160, dtype=torch.uint8)
    full_mask[:, :, 40:100, 60:120] = 1
    return {
        "__name__": "page", "x": torch.randn(2, 3, 160, 160), "labels": torch.tensor([1, 2]), "full_mask": full_mask,
        "mask": torch.nn.functional.adaptive_avg_pool2d(full_mask.float(), 10), "test": rows["test"],
        "train": rows["train"], "names": ar.data.class_names(rows["test"]),
    }  # fmt: skip


@pytest.mark.parametrize("page", RUN, ids=name)
@pytest.mark.filterwarnings("ignore")
def test_the_snippets_of_a_page_run_from_top_to_bottom(page, reader):
    found = SNIPPET.findall(page.read_text(encoding="utf-8"))
    assert found
    for left_out, code in found:
        for theirs, ours in INSTEAD.items():
            code = code.replace(theirs, ours)
        if left_out:
            compile(code, name(page), "exec")
        else:
            exec(compile(code, name(page), "exec"), reader)


# the site -------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(
    not all(importlib.util.find_spec(each) for each in ("mkdocs", "material", "mkdocstrings", "mdx_truly_sane_lists")),
    reason='the site is built by mkdocs: pip install "attention-refine[docs]"',
)
def test_the_site_builds_without_a_warning_and_lists_its_pages_for_machines(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    listed = re.findall(r"^- \[[^\]]+\]\(([^)]*)\): (.*)$", (tmp_path / "site" / "llms.txt").read_text(), re.MULTILINE)
    assert len(listed) == len(PAGES)
    assert not [url for url, _ in listed if not (tmp_path / "site" / url / "index.html").exists()]
    html = (tmp_path / "site" / "reference" / "models" / "index.html").read_text()
    assert 'id="attention_refine.wrap"' in html and ":class:" not in html and ":func:" not in html
