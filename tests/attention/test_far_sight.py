"""Which attention carries information across the whole image, asked of gradients in a network.

The table of ``benchmarks/bench_shelf_proof.py`` declares it and trains all of them; here the
declaration alone is checked, and that the task can tell: the plain network sees nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from copy import copy
from pathlib import Path
from types import ModuleType

import pytest

from napari_attnseg.attention import list_attentions, registry

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def proof() -> Iterator[ModuleType]:
    """The benchmark; the registry forgets afterwards what its tasks bring."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("_REGISTRY", "_ALIASES"):
            patch.setattr(registry, name, copy(getattr(registry, name)))
        patch.syspath_prepend(FOLDER)
        import bench_shelf_proof

        yield bench_shelf_proof
    for name in ("bench_shelf_proof", "shelf_tasks", "results"):
        sys.modules.pop(name, None)


def test_every_attention_is_declared(proof: ModuleType) -> None:
    own = [name for name in list_attentions() if registry.attention_entry(name).id]
    assert proof.by_number() == own


def test_the_marker_is_out_of_the_plain_networks_sight(proof: ModuleType) -> None:
    for task in ("", proof.tasks.STACKED):
        gradient, rows, columns = proof.tasks.sight("", task)
        assert gradient == 0
        assert 0 < rows < 12
        assert 0 < columns < 28


def test_squares_cannot_be_told_by_themselves(proof: ModuleType) -> None:
    images, targets, squares = proof.tasks.far_scenes(64, 5)
    shown = targets.flatten(1).any(1)
    assert shown.sum() == 32
    assert ((targets == 1) <= squares).all()
    beyond = ~squares
    for channel in (1, 2):  # the marker's colour says it, and nothing else does
        marked = (images[:, channel] > 0.5) & beyond
        assert ((marked.flatten(1).sum(1) > 20) == (shown == (channel == 2))).all()


@pytest.mark.parametrize("name", [n for n in list_attentions() if registry.attention_entry(n).id])
def test_gradients_reach_the_marker_where_they_should_and_only_there(
    proof: ModuleType, name: str
) -> None:
    gradient, _, _ = proof.tasks.sight(name, draws=1)
    if proof.ACROSS[name] == proof.NEAR:
        assert gradient == 0
    else:
        assert gradient > 1e-9
