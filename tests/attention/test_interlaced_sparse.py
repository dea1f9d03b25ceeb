"""Interlaced sparse attention against its loop, and its two degenerate block sizes."""

from __future__ import annotations

import numpy as np
import pytest
import slow_pairs as slow
import torch
from shelf import arrays, fresh, noise, rows_of, support

from napari_attnseg import create_attention
from napari_attnseg.attention.neighbourhood import Everywhere
from napari_attnseg.errors import InputError


def step(x: np.ndarray, p: dict[str, np.ndarray], seen: slow.Seen) -> np.ndarray:
    def twice(name: str) -> np.ndarray:
        layers = slow.under(name, p)
        once = slow.normed(x, layers)
        return slow.normed(
            once, {f"{int(n[0]) - 3}{n[1:]}": a for n, a in layers.items() if n[0] in "34"}
        )

    q, k = twice("query"), twice("key")
    v = slow.project(x, p["value.weight"], p["value.bias"])
    return slow.normed(slow.attend(q, k, v, seen), slow.under("out", p))


@pytest.mark.parametrize("block", [2, 3])
@pytest.mark.parametrize("merge", ["concat", "add"])
def test_equals_the_slow_twin(block: int, merge: str) -> None:
    module, x = fresh("interlaced_sparse", block=block, merge=merge), noise(1, 8, 5, 7)
    p, item = arrays(module), x[0].numpy()
    far = step(item, slow.under("far", p), slow.lattice(block))
    near = step(far, slow.under("near", p), slow.block(block))
    both = np.concatenate([near, item])
    expected = near + item if merge == "add" else slow.normed(both, slow.under("join", p))
    with torch.no_grad():
        np.testing.assert_allclose(module(x)[0].numpy(), expected, atol=1e-12)


def test_blocks_of_one_make_the_far_step_full_attention() -> None:
    module, x = fresh("interlaced_sparse", block=1), noise(1, 8, 5, 7)
    with torch.no_grad():
        far, near = module.far, module.near
        q, k, v = far.parts(x)
        full = far.out(Everywhere().mix(q, k, v, far.factor(q)).flatten(1, 2))
        torch.testing.assert_close(far(x), full)
        torch.testing.assert_close(near(x), near.out(near.value(x)))


def test_one_block_makes_the_near_step_full_attention() -> None:
    module, x = fresh("interlaced_sparse", block=8), noise(1, 8, 5, 7)
    with torch.no_grad():
        far, near = module.far, module.near
        q, k, v = near.parts(x)
        full = near.out(Everywhere().mix(q, k, v, near.factor(q)).flatten(1, 2))
        torch.testing.assert_close(near(x), full)
        torch.testing.assert_close(far(x), far.out(far.value(x)))


def test_both_steps_reach_everything_and_one_does_not() -> None:
    module, x = fresh("interlaced_sparse", block=3), noise(1, 8, 6, 9)
    reached = [support(fresh("interlaced_sparse", block=3), at, x) for at in ((0, 0), (5, 4))]
    assert all(r.all() for r in reached)
    assert support(module.near, (0, 0), x).sum() == 9
    assert support(module.far, (0, 0), x).sum() == 6


def test_rows_of_both_steps() -> None:
    module, x = fresh("interlaced_sparse", block=2), noise(1, 8, 5, 7)
    far, near = (rows_of(module, (4, 2), x, name=f"row {n}")[0] for n in ("far", "near"))
    assert (far > 0).sum() == 3 * 4
    assert (near > 0).sum() == 2, "the block at the lower border holds two positions"
    a = module.far.operator(x)[0, 0, 4 * 7 + 2].view(5, 7)
    torch.testing.assert_close(far, a)


def test_bad_options_are_refused() -> None:
    with pytest.raises(InputError, match="got block=0, expected at least 1"):
        create_attention("interlaced_sparse", 8, block=0)
    with pytest.raises(InputError, match="got merge='max'"):
        create_attention("interlaced_sparse", 8, merge="max")
