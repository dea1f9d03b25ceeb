"""The chain: which stages wake, chained keys, and a cache limited by bytes."""

from __future__ import annotations

import numpy as np

from napari_attnseg.engine.stages import ByteCache, Chain, Stage, bytes_of


def chain(cache: ByteCache) -> Chain:
    return Chain(
        (
            Stage("heavy", (), lambda x, v: v["z"] * np.ones(100), cache),
            Stage("light", ("t",), lambda x, v: x + v["t"], None),
            Stage("cut", ("c",), lambda x, v: x * v["c"], cache),
        )
    )


def test_only_touched_stages_wake() -> None:
    c = chain(ByteCache(1 << 20))
    assert c.ask(1, {"z": 1, "t": 2, "c": 3})[0] == 9
    assert c.woken == ("heavy", "light", "cut")
    c.ask(1, {"z": 1, "t": 5, "c": 3})
    assert c.woken == ("light", "cut")
    c.ask(1, {"z": 1, "t": 5, "c": 4})
    assert c.woken == ("light", "cut")  # light is not kept, so it is made again
    c.ask(1, {"z": 1, "t": 2, "c": 3})
    assert c.woken == ()
    c.ask(2, {"z": 2, "t": 2, "c": 3})
    assert c.woken == ("heavy", "light", "cut")
    assert c.counts == {"heavy": 2, "light": 4, "cut": 4}


def test_upto_stops_early() -> None:
    c = chain(ByteCache(1 << 20))
    assert c.ask(1, {"z": 4, "t": 0, "c": 0}, upto="heavy")[0] == 4
    assert c.woken == ("heavy",)


def test_without_room_the_answer_is_right_but_nothing_is_kept() -> None:
    c = chain(ByteCache(100))
    for _ in range(2):
        assert c.ask(1, {"z": 1, "t": 2, "c": 3})[0] == 9
        assert c.woken == ("heavy", "light", "cut")


def test_cache_forgets_the_least_recently_used() -> None:
    cache = ByteCache(250)
    for name in "ab":
        cache.put(name, np.zeros(100, np.uint8))
    assert cache.get("a")[0]  # a is now younger than b
    cache.put("c", np.zeros(100, np.uint8))
    assert [name in cache for name in "abc"] == [True, False, True]
    assert cache.used == 200


def test_cache_counts_replaced_values_once() -> None:
    cache = ByteCache(250)
    cache.put("a", np.zeros(100, np.uint8))
    cache.put("a", np.zeros(200, np.uint8))
    assert (cache.used, len(cache)) == (200, 1)
    cache.put("a", np.zeros(300, np.uint8))  # too large to keep at all
    assert (cache.used, len(cache)) == (0, 0)
    assert cache.get("a") == (False, None)


def test_random_traffic_keeps_the_limit() -> None:
    rng = np.random.default_rng(0)
    cache = ByteCache(1000)
    for _ in range(500):
        cache.put(int(rng.integers(30)), np.zeros(int(rng.integers(400)), np.uint8))
        assert cache.used <= 1000
    cache.clear()
    assert cache.used == 0


def test_bytes_of_nested_values() -> None:
    import torch

    from napari_attnseg.engine.predict import Answer

    answer = Answer(torch.zeros(2, 3, 5), torch.zeros(3, 5), torch.zeros(3, 5, dtype=torch.uint8))
    assert bytes_of(answer) == 120 + 60 + 15
    assert bytes_of((answer, [np.zeros(4, np.float64)], "words", None)) == 195 + 32
