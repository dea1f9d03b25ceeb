"""The order of slices: what is looked at first, each slice exactly once whatever happens."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from napari_attnseg.control.order import Pending, following

LOOKS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 40), st.integers(0, 2)), max_size=12)


@given(st.sets(st.integers(0, 40), min_size=1), LOOKS)
def test_each_slice_once_whatever_the_reorderings(
    slices: set[int], looks: list[tuple[int, int, int]]
) -> None:
    pending = Pending(sorted(slices))
    taken: list[int] = []
    for steps, z, axis in looks:
        for _ in range(min(steps, len(pending))):
            taken.append(pending.take()[0])
        pending.reorder(z, axis)
    while pending:
        taken.append(pending.take()[0])
    assert sorted(taken) == sorted(slices)
    assert pending.total == len(slices)


@given(st.sets(st.integers(0, 40), min_size=1), st.integers(0, 5), st.integers(0, 40))
def test_the_slice_looked_at_is_the_next_one(slices: set[int], steps: int, z: int) -> None:
    pending = Pending(sorted(slices))
    for _ in range(min(steps, len(pending))):
        pending.take()
    left = set(pending.left)
    pending.reorder(z)
    if z in left:
        assert pending.take() == (z, True)
    elif left:
        nearest, urgent = pending.take()
        assert abs(nearest - z) == min(abs(k - z) for k in left)
        assert not urgent, "nobody waits for a neighbour"


def test_outward_by_hand() -> None:
    assert following(range(6), 2) == (2, 1, 3, 0, 4, 5)
    assert following((0, 4, 5, 9), 5) == (5, 4, 9, 0)


def test_a_cut_through_all_slices_fills_coarse_to_fine() -> None:
    assert following(range(11), 4, axis=1) == (0, 8, 4, 2, 6, 10, 1, 3, 5, 7, 9)
    assert following((7, 6, 12, 16, 3), 4, axis=2) == (16, 12, 6, 3, 7)


@given(st.integers(1, 200), st.integers(1, 200))
def test_a_cut_has_no_gap_wider_than_its_step(count: int, done: int) -> None:
    """After any number of slices the gaps are at most twice the step of the level at work."""
    done = min(done, count)
    shown = sorted(following(range(count), 0, axis=1)[:done])
    for step in (8, 4, 2, 1):
        if set(range(0, count, step)) <= set(shown):
            gaps = [b - a for a, b in zip(shown, [*shown[1:], count], strict=True)]
            assert max(gaps) <= step


def test_only_the_first_is_urgent_until_the_person_moves() -> None:
    pending = Pending((3, 2, 4, 1, 5))
    assert [pending.take() for _ in range(2)] == [(3, True), (2, False)]
    pending.reorder(5)
    assert [pending.take() for _ in range(3)] == [(5, True), (4, False), (1, False)]
    pending.reorder(0)
    assert len(pending) == 0
