"""docs/attentions says what the docstrings say, and leaves no attention out."""

from __future__ import annotations

import re
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

from napari_attnseg.attention import attention_info, list_attentions

ROOT = Path(__file__).resolve().parents[2]
FOLDER, TOOL = ROOT / "docs" / "attentions", ROOT / "tools" / "attention_pages.py"
AGAIN = "write the pages anew: python tools/attention_pages.py"
PICTURE_BYTES = 25_000


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = spec_from_file_location("attention_pages", TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[module.__name__] = module
    spec.loader.exec_module(module)
    return module


def test_every_page_is_what_the_docstrings_say(tool: ModuleType) -> None:
    wanted = tool.pages()
    found = {p.name: p.read_text(encoding="utf-8") for p in FOLDER.glob("*.md")}
    assert sorted(found) == sorted(wanted), AGAIN
    for name, text in wanted.items():
        assert found[name] == text, f"{name}: {AGAIN}"


def test_every_attention_has_a_page_and_a_row() -> None:
    index = (FOLDER / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (A\d\d) \| .*?\((\w+)\.md\) \| `(\w+)` \|", index, re.M)
    listed = [name for name in list_attentions() if attention_info(name)["id"]]
    assert [name for _, _, name in rows] == listed
    assert len(listed) == 37
    for number, page, name in rows:
        assert page == name
        text = (FOLDER / f"{page}.md").read_text(encoding="utf-8")
        info = attention_info(name)
        assert f"`{name}` ({number})" in text
        assert info["paper"] in text
        for part in ("formula", "symbols", "cost"):
            assert info["doc"][part], f"{name} says nothing of its {part}"
        assert info["doc"]["formula"] in text
        for argument in info["arguments"]:
            assert re.search(rf"^\| `{argument['name']}` \| ", text, re.M), (name, argument["name"])


def test_links_and_pictures_are_there() -> None:
    for page in FOLDER.glob("*.md"):
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert (FOLDER / target).exists(), f"{page.name} names {target}"


def test_every_page_has_a_small_picture() -> None:
    found = sorted(FOLDER.glob("*.png"))
    assert [p.stem for p in found] == sorted(p.stem for p in FOLDER.glob("[a-z]*.md"))
    for path in found:
        assert f"]({path.name})" in (FOLDER / f"{path.stem}.md").read_text(encoding="utf-8")
        assert path.stat().st_size <= PICTURE_BYTES, path.name
        with Image.open(path) as picture:
            assert picture.mode == "P", path.name
