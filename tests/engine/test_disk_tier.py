"""Heavy stages on disk: exact bits, bounded, and nothing heavy wakes for a moved threshold."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from napari_attnseg.control import messages as m
from napari_attnseg.engine import disk_tier as module
from napari_attnseg.engine import opened
from napari_attnseg.engine.disk_tier import DiskTier
from napari_attnseg.engine.service import Engine
from napari_attnseg.engine.session import Session
from napari_attnseg.engine.stages import ByteCache, bytes_of
from napari_attnseg.settings import Tuning

TUNING = Tuning.of(threshold=0.1, rule="authors", gamma=1.0)
SLICES = 24


@dataclass(frozen=True)
class Thing:
    """A value as stages make them."""

    tensor: torch.Tensor
    size: tuple[int, int] = (3, 5)
    parts: tuple[torch.Tensor, ...] = ()
    other: Thing | None = None


def thing(seed: int, shape: tuple[int, ...] = (1, 3, 7, 11)) -> Thing:
    torch.manual_seed(seed)
    last = torch.randn(shape).contiguous(memory_format=torch.channels_last)
    odd = torch.tensor([float("nan"), -0.0, float("inf"), 1e-45], dtype=torch.float32)
    parts = (last, odd, torch.arange(5), torch.tensor(3.5), torch.randn(4).bfloat16())
    return Thing(torch.randn(shape), (seed, 2), parts, Thing(torch.randn(2, 3).T))


def same(a: Any, b: Any) -> bool:
    """Equal bits, shapes, strides and types."""
    if isinstance(a, torch.Tensor):
        raw = [t.contiguous().reshape(-1).view(torch.uint8) for t in (a, b)]
        kept = (a.shape, a.stride(), a.dtype) == (b.shape, b.stride(), b.dtype)
        return kept and torch.equal(*raw)
    if isinstance(a, Thing):
        return all(same(getattr(a, n), getattr(b, n)) for n in ("tensor", "size", "parts", "other"))
    if isinstance(a, tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def key(z: int, *stages: Any) -> tuple[Any, ...]:
    return (z, *((str(i), value) for i, value in enumerate(stages)))


def test_what_comes_back_has_the_same_bits(tmp_path: Path) -> None:
    tier = DiskTier(tmp_path, 1 << 20)
    for z in range(5):
        tier.put(key(z, 0), thing(z))
    for z in reversed(range(5)):
        found, value = tier.get(key(z, 0))
        assert found
        assert same(value, thing(z))
        assert not same(value, thing(z + 1))
    assert tier.get(key(9, 0)) == (False, None)
    assert tier.inputs() == set(range(5))
    value.tensor.add_(1.0)
    assert same(tier.get(key(0, 0))[1], thing(0)), "a map is private"


def test_files_add_up_to_the_limit_and_go_with_their_values(tmp_path: Path) -> None:
    tier = DiskTier(tmp_path, 10_000)
    for z in range(20):
        tier.put(key(z, 0), thing(z))
        on_disk = sum(f.stat().st_size for f in tmp_path.rglob("*.raw"))
        assert on_disk == tier.used <= 10_000
    assert 0 < len(tier) < 20
    tier.clear()
    assert not list(tmp_path.rglob("*.raw"))
    assert tier.used == 0
    tier.close()
    assert not list(tmp_path.iterdir())


def test_a_volume_larger_than_the_limit_keeps_what_it_can(tmp_path: Path) -> None:
    """Pass after pass over more than fits: the same part is found each time."""
    size = DiskTier(tmp_path, 1 << 20)
    size.put(key(0, 0), thing(0))
    tier = DiskTier(tmp_path, 6 * size.used)
    for _ in range(3):
        hits = [tier.get(key(z, 0))[0] for z in range(10)]
        for z in range(10):
            tier.put(key(z, 0), thing(z))
    assert hits == [True] * 6 + [False] * 4


def test_other_values_make_room_for_those_in_use(tmp_path: Path) -> None:
    size = DiskTier(tmp_path, 1 << 20)
    size.put(key(0, 0), thing(0))
    tier = DiskTier(tmp_path, 6 * size.used)
    for z in range(3):
        tier.put(key(z, 0), thing(z))
        tier.put(key(z, 0, "old"), thing(z))
    for z in range(3):
        assert tier.get(key(z, 0))[0]
        tier.put(key(z, 0, "new"), thing(z))
    assert all(key(z, 0) in tier for z in range(3)), "what the new ones are made from stays"
    assert all(key(z, 0, "new") in tier for z in range(3))
    assert not any(key(z, 0, "old") in tier for z in range(3))


def test_earlier_stages_come_before_later_ones(tmp_path: Path) -> None:
    """A later stage is made again from an earlier one, not the other way round."""
    size = DiskTier(tmp_path, 1 << 20)
    size.put(key(0, 0), thing(0))
    tier = DiskTier(tmp_path, 6 * size.used)
    for z in range(10):
        tier.put(key(z, 0), thing(z))
        tier.put(key(z, 0, "gate"), thing(z))
    assert [key(z, 0) in tier for z in range(10)] == [True] * 6 + [False] * 4
    assert not any(key(z, 0, "gate") in tier for z in range(10))


def test_a_full_disk_ends_keeping_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tier = DiskTier(tmp_path, 1 << 20)
    tier.put(key(0, 0), thing(0))

    there = module._write

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "_write", full)
    tier.put(key(1, 0), thing(1))
    assert "No space left" in tier.problem
    assert tier.get(key(0, 0))[0]
    assert not tier.get(key(1, 0))[0]
    assert len(list(tmp_path.rglob("*.raw"))) == 1
    tier.clear()  # another image
    monkeypatch.setattr(module, "_write", there)
    tier.put(key(2, 0), thing(2))
    assert not tier.problem, "there may be room again"
    assert key(2, 0) in tier


def test_a_file_that_was_tidied_away_is_a_miss(tmp_path: Path) -> None:
    tier = DiskTier(tmp_path, 1 << 20)
    tier.put(key(0, 0), thing(0))
    for file in tmp_path.rglob("*.raw"):
        file.unlink()
    assert tier.get(key(0, 0)) == (False, None)
    assert tier.used == 0


def test_files_of_a_dead_process_are_removed(tmp_path: Path) -> None:
    dead = tmp_path / "tier-999999-1"
    dead.mkdir()
    (dead / "1.raw").write_bytes(b"x")
    mine = DiskTier(tmp_path, 1)
    DiskTier(tmp_path, 1)
    assert not dead.exists()
    assert mine.folder.exists()
    assert str(os.getpid()) in mine.folder.name


def test_memory_gives_to_disk_and_takes_back(tmp_path: Path) -> None:
    tier = DiskTier(tmp_path, 1 << 20)
    cache = ByteCache(3 * bytes_of(thing(0)), tier)
    for z in range(8):
        cache.put(key(z, 0), thing(z))
    assert len(cache) == 3
    assert len(tier) == 5
    for z in range(8):
        found, value = cache.get(key(z, 0))
        assert found
        assert same(value, thing(z))
    assert cache.used <= cache.limit
    small = ByteCache(10, tier)
    small.put(key(9, 0), thing(9))
    assert len(small) == 0
    assert same(small.get(key(9, 0))[1], thing(9)), "too large for memory: on disk at once"


def chains(session: Session) -> Counter[str]:
    return session.pipeline.chain.counts.copy()


@pytest.mark.parametrize("cells", [True, False])
def test_a_moved_threshold_wakes_nothing_heavy_in_the_whole_volume(
    tmp_path: Path, tiny_checkpoint: Path, cells: bool
) -> None:
    image = np.random.default_rng(0).normal(size=(SLICES, 64, 72)).astype(np.float32)
    fresh = Session(tiny_checkpoint, "cpu", use_cells=cells)
    fresh.set_image(image)
    fresh.predict(0, TUNING)
    room = 3 * fresh.pipeline.heavy.used
    session = Session(tiny_checkpoint, "cpu", cache_bytes=room, use_cells=cells)
    session.set_image(image)
    session.keep_on_disk(tmp_path, 1 << 30)
    for z in range(SLICES):
        session.predict(z, TUNING)
    assert session.kept().slices == SLICES
    assert session.kept().memory <= room
    before = chains(session)
    assert before["encode"] == before["attend"] == SLICES
    moved = TUNING.replace(threshold=0.02)
    for z in range(SLICES):
        answer, exact = session.predict(z, moved), fresh.predict(z, moved)
        for name in ("labels", "probability", "logits", "step"):
            np.testing.assert_array_equal(getattr(answer, name), getattr(exact, name))
    woken = chains(session) - before
    assert not {"encode", "attend", "variants"} & set(woken), woken
    session.set_image(image[:2])
    assert session.kept().disk == 0
    session.close()
    assert not list(tmp_path.iterdir())


def test_a_run_keeps_its_stages_and_tells_what_it_could_not(
    tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opened, "MEMORY_BESIDE_DISK", 60_000)
    image = np.random.default_rng(0).normal(size=(SLICES, 33, 41)).astype(np.float32)
    np.save(tmp_path / "image.npy", image)
    stages = tmp_path / "stages"
    work = m.Predict(
        1,
        m.ImageRef("k", str(tmp_path / "image.npy")),
        str(tiny_checkpoint),
        "cpu",
        TUNING,
        tuple(range(SLICES)),
        str(tmp_path / "out"),
        stages=str(stages),
        stage_bytes=1 << 30,
    )
    engine = Engine()
    events = list(engine.handle(work))
    assert not any(isinstance(e, m.Note) for e in events)
    last = events[-1]
    assert isinstance(last, m.Finished)
    assert last.summary["kept"]["slices"] == SLICES
    assert last.summary["kept"]["disk"] == sum(f.stat().st_size for f in stages.rglob("*.raw")) > 0
    (session,) = engine._sessions.kept.values()
    before = chains(session)
    list(engine.handle(replace(work, id=2, tuning=TUNING.replace(threshold=0.3))))
    assert chains(session)["encode"] == before["encode"]
    engine.close()
    assert not list(stages.rglob("*.raw"))
    poor = list(Engine().handle(replace(work, out=str(tmp_path / "poor"), stage_bytes=9000)))
    (note,) = (e for e in poor if isinstance(e, m.Note))
    assert "of 24 slices is kept" in note.text


def test_a_slice_in_passing_has_the_bits_of_a_live_one(tiny_checkpoint: Path) -> None:
    """On a size that the network pads: its logits are then a part of a larger array."""
    image = np.random.default_rng(0).normal(size=(2, 33, 41)).astype(np.float32)
    live, passing = (Session(tiny_checkpoint, "cpu") for _ in range(2))
    live.set_image(image)
    passing.set_image(image)
    for threshold in (0.02, 0.1, 0.3):
        tuning = TUNING.replace(threshold=threshold)
        for z, answer in passing.run(tuning=tuning):
            expected = live.predict(z, tuning)
            for name in ("labels", "probability", "logits"):
                np.testing.assert_array_equal(getattr(answer, name), getattr(expected, name))
    assert "variants" not in passing.pipeline.chain.counts
    assert passing.pipeline.chain.counts["attend"] == 2


def test_memory_that_ends_in_a_run_costs_neither_slices_nor_bits(
    tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every attention from the sixth on fails until its row blocks are smaller."""
    image = np.random.default_rng(0).normal(size=(9, 33, 41)).astype(np.float32)
    np.save(tmp_path / "image.npy", image)
    ref = m.ImageRef("k", str(tmp_path / "image.npy"))
    work = m.Predict(1, ref, str(tiny_checkpoint), "cpu", TUNING, tuple(range(9)), str(tmp_path))
    plain = list(Engine().handle(replace(work, out=str(tmp_path / "plain"))))[-1]
    from napari_attnseg.models.smooth_unet import SmoothUNet

    true_attend, calls = SmoothUNet.attend, Counter[str]()

    def short(self: Any, encoded: Any) -> Any:
        calls["all"] += 1
        if calls["all"] > 5 and self.attention.block_bytes is None:
            raise torch.OutOfMemoryError("not enough memory")
        return true_attend(self, encoded)

    monkeypatch.setattr(SmoothUNet, "attend", short)
    engine = Engine()
    run = replace(work, out=str(tmp_path / "out"), stages=str(tmp_path / "s"), stage_bytes=1 << 30)
    events = list(engine.handle(run))
    last = events[-1]
    assert isinstance(last, m.Finished)
    assert isinstance(plain, m.Finished)
    assert calls["all"] == 9 + 1, "each slice once, and the one that failed"
    assert any("smaller row blocks" in e.text for e in events if isinstance(e, m.Note))
    assert any("smaller row blocks" in text for text in last.summary["provenance"]["notes"])
    for name, path in last.outputs.items():
        np.testing.assert_array_equal(np.load(path), np.load(plain.outputs[name]))
    assert last.summary["kept"]["slices"] == 9, "what lay in memory went to disk"
    engine.close()
