"""Which slices are learnt from and which are kept back to judge the model."""

from __future__ import annotations

import numpy as np

from napari_attnseg.engine.examples import Slice


def split(
    slices: tuple[Slice, ...],
    fraction: float,
    seed: int,
    marked: frozenset[Slice] = frozenset(),
) -> tuple[tuple[Slice, ...], tuple[Slice, ...], str]:
    """Training slices, validation slices and, in words, how they were parted.

    Five pairs or more: whole pairs are drawn. Fewer, but five slices or more: one run of
    neighbouring slices is kept back, since single slices resemble their neighbours; it is taken
    among ``marked``, those with some foreground, if there are five of them. Otherwise the
    training slices themselves serve, and the note says so.
    """
    pairs = sorted({s.pair for s in slices})
    rng = np.random.default_rng([seed, 1])
    if fraction <= 0:
        return slices, slices, "nothing kept back: validated on the training pixels"
    if len(slices) < 5:
        return slices, slices, "too few slices to keep some back: validated on the training pixels"
    if len(pairs) >= 5:
        count = min(len(pairs) - 1, max(1, round(fraction * len(pairs))))
        kept = set(rng.permutation(pairs)[:count].tolist())
        text = f"{count} of {len(pairs)} pairs drawn with seed {seed} for validation"
        held = {s for s in slices if s.pair in kept}
    else:
        telling = [s for s in slices if s in marked]
        telling = telling if len(telling) >= 5 else list(slices)
        count = min(len(telling) - 1, max(1, round(fraction * len(telling))))
        start = int(rng.integers(0, len(telling) - count + 1))
        held = set(telling[start : start + count])
        text = f"{count} neighbouring slices of {len(slices)} drawn with seed {seed} for validation"
    training = tuple(s for s in slices if s not in held)
    return training, tuple(s for s in slices if s in held), text
