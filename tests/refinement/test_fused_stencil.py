"""The form for ``torch.compile``: the same numbers, and a way back where nothing compiles."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from napari_attnseg.errors import InputError
from napari_attnseg.refinement import create_refinement
from napari_attnseg.refinement.fused import Fused, fused

BOTH = pytest.mark.parametrize("name", ["cspn", "dyspn"])


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch.manual_seed(2)
    fused.cache_clear()
    yield
    fused.cache_clear()


def case(name: str, dtype: torch.dtype = torch.float32, ndim: int = 2, **options):
    options = {"kernel": 5, **options}
    refinement = create_refinement(name, iterations=2, ndim=ndim, **options)
    shape = (2, 3, 13, 19) if ndim == 2 else (1, 2, 4, 7, 11)
    h0 = torch.randn(shape, dtype=dtype)
    affinity = torch.randn(shape[0], refinement.channels, *shape[2:], dtype=dtype)
    attention = None
    if refinement.needs_attention:
        parts = len(refinement.rings) + 1
        attention = torch.rand(shape[0], 2, parts, *shape[2:], dtype=dtype)
    return refinement, h0, affinity, attention


def refined(name: str, compile: bool | str, given: tuple, **options) -> Tensor:
    return create_refinement(name, iterations=2, kernel=5, compile=compile, **options).refine(
        *given
    )


@BOTH
@pytest.mark.parametrize("ndim", [2, 3])
def test_the_plain_step_is_the_usual_one(name: str, ndim: int, monkeypatch) -> None:
    """What is given to the compiler, run as it stands."""
    monkeypatch.setattr(torch, "compile", lambda function: function)
    refinement, *given = case(name, torch.float64, ndim)
    same = refined(name, True, given, ndim=ndim)
    assert torch.allclose(same, refinement.refine(*given), atol=1e-12)


@BOTH
def test_without_a_compiler_the_usual_form_runs(name: str, monkeypatch) -> None:
    calls = []

    def broken(function):
        def run(*given):
            calls.append(1)
            raise RuntimeError("InvalidCxxCompiler: No working C++ compiler found")

        return run

    monkeypatch.setattr(torch, "compile", broken)
    refinement, *given = case(name)
    asked = create_refinement(name, iterations=2, kernel=5, compile=True)
    assert asked.note == ""
    assert torch.equal(asked.refine(*given), refinement.refine(*given))
    assert len(calls) == 1  # asked once, not in every iteration
    assert "No working C++ compiler" in asked.note
    assert "install a C++ compiler" in asked.note
    assert create_refinement(name).note == ""


def test_torch_that_cannot_compile_at_all(monkeypatch) -> None:
    def refuse(function):
        raise RuntimeError("torch.compile is not supported on Python 4")

    monkeypatch.setattr(torch, "compile", refuse)
    run = Fused(torch.add)
    assert not run.ready
    assert run(torch.ones(1), torch.ones(1)) is None
    assert "not supported on Python 4" in run.note


def test_full_memory_is_no_reason_to_compile_no_more(monkeypatch) -> None:
    def full(function):
        def run(*given):
            raise torch.OutOfMemoryError("out of memory")

        return run

    monkeypatch.setattr(torch, "compile", full)
    run = Fused(torch.add)
    with pytest.raises(torch.OutOfMemoryError):
        run(torch.ones(1), torch.ones(1))
    assert run.ready


@BOTH
def test_auto_compiles_nothing_on_a_processor(name: str, monkeypatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda function: pytest.fail("compiled"))
    refinement, *given = case(name)
    assert torch.equal(refined(name, "auto", given), refinement.refine(*given))
    with pytest.raises(InputError, match="got compile='yes'"):
        create_refinement(name, compile="yes")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None and shutil.which("c++") is None, reason="no C++")
@BOTH
def test_compiled_is_as_usual(name: str) -> None:
    """A 3x3 neighbourhood, for the sake of the compiler's time; gradients for CSPN."""
    refinement, *given = case(name, kernel=3)
    asked = create_refinement(name, iterations=2, kernel=3, compile=True)
    with torch.inference_mode():
        usual = refinement.refine(*given)
        out = asked.refine(*given)
    assert asked.note == ""
    assert torch.allclose(out, usual, atol=1e-6 * float(usual.abs().max()))
    if name == "dyspn":
        return
    wanted = [v.requires_grad_(True) for v in given if v is not None]
    a, b = (
        torch.autograd.grad(r.refine(*given).square().sum(), wanted) for r in (asked, refinement)
    )
    for one, other in zip(a, b, strict=True):
        assert torch.allclose(one, other, atol=1e-5 * float(other.abs().max()))
    assert asked.note == ""


ALONE = """
import torch
from napari_attnseg.refinement import create_refinement
h0, affinity = torch.randn(1, 2, 9, 11), torch.randn(1, 8, 9, 11)
asked, usual = (create_refinement("cspn", iterations=2, compile=c) for c in (True, False))
with torch.no_grad():
    assert torch.equal(asked.refine(h0, affinity), usual.refine(h0, affinity))
print(asked.note)
"""


@pytest.mark.slow
def test_no_compiler_on_this_machine(tmp_path) -> None:
    """Torch's own search for a compiler finds none."""
    lost = {"CXX": str(tmp_path / "nothing"), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    told = subprocess.run(
        [sys.executable, "-c", ALONE], env={**os.environ, **lost}, capture_output=True, text=True
    )
    assert told.returncode == 0, told.stderr[-2000:]
    assert "iterations run uncompiled" in told.stdout
