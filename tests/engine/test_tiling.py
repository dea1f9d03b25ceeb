"""Image tiles: asked for, joined without seams, said in notes and provenance."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lively import lively_model

from napari_attnseg.cards import Card
from napari_attnseg.control.messages import (
    Finished,
    ImageRef,
    Predict,
    Retune,
    Retuned,
    SliceDone,
    Started,
)
from napari_attnseg.engine.desk import failure
from napari_attnseg.engine.device import BLOCKS
from napari_attnseg.engine.service import Engine
from napari_attnseg.engine.session import Session
from napari_attnseg.engine.tiling import (
    OVERLAP,
    SIGMA,
    Plan,
    axis_weights,
    helpful_tile,
    spans,
    tile_advice,
)
from napari_attnseg.errors import InputError, MemoryEndedError
from napari_attnseg.models.base import Encoded, ModelSpec, SegmentationModel
from napari_attnseg.settings import Preprocessing

RNG = np.random.default_rng(2)
ODD = RNG.random((77, 143)).astype(np.float32)
VOLUME = RNG.normal(100, 40, (7, 55, 33)).astype(np.float32)


class Pointwise(SegmentationModel):
    """Every pixel alone decides its logits: tiles cannot change its answer."""

    def __init__(self) -> None:
        super().__init__()
        self.spec = ModelSpec("pointwise", 1, 3, {})
        self.layer = torch.nn.Conv2d(1, 3, 1)
        with torch.no_grad():
            self.layer.weight.copy_(torch.tensor([0.0, 4.0, -4.0]).view(3, 1, 1, 1))
            self.layer.bias.copy_(torch.tensor([0.5, -1.0, 1.0]))

    def encode(self, x_BCHW: torch.Tensor) -> Encoded:
        size = (x_BCHW.shape[-2], x_BCHW.shape[-1])
        return Encoded(self.layer(x_BCHW), size)

    def decode(self, features: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        return features


def make_session(model: Any, image: np.ndarray, tile: int | None, **kw: Any) -> Session:
    card = Card(
        spec=model.spec.to_json(),
        preprocessing=Preprocessing(channels=1, mean=(0.4,), std=(0.3,), size=kw.pop("size", None)),
        tuning=model.tuning(),
    )
    session = Session(model, "cpu", card=card, tile=tile, use_cells=kw.pop("use_cells", True))
    session.set_image(image, **kw)
    return session


# --- where tiles lie and what they weigh --------------------------------------------------------


@pytest.mark.parametrize("stride", [1, 8, 32])
@pytest.mark.parametrize("tile", [64, 77, 100])
@pytest.mark.parametrize("length", [7, 63, 64, 65, 77, 143, 275, 1001])
def test_parts_cover_everything_on_the_grid(length: int, tile: int, stride: int) -> None:
    parts = spans(length, tile, stride)
    assert parts[0][0] == 0
    assert parts[-1][1] == length
    assert all(start % stride == 0 and 0 < stop - start <= tile for start, stop in parts)
    for (_, stop), (start, _) in itertools.pairwise(parts):
        assert stop - start >= int(OVERLAP * tile)
    if length <= tile:
        assert parts == [(0, length)]


@pytest.mark.parametrize("size", [(7, 11), (77, 143), (64, 201)])
def test_weights_are_gaussian_and_sum_to_one(size: tuple[int, int]) -> None:
    """Against the definition written out in two dimensions, pixel by pixel."""
    plan = Plan.of(size, 64, 8)
    rows = dict(zip(plan.rows, axis_weights(plan.rows), strict=True))
    cols = dict(zip(plan.cols, axis_weights(plan.cols), strict=True))
    total, gauss_total = np.zeros(size), np.zeros(size)
    own: dict[Any, np.ndarray] = {}
    for tile in plan.tiles(0):
        (a, b), (c, d) = tile.rows, tile.cols
        total[a:b, c:d] += (rows[tile.rows][:, None] * cols[tile.cols]).numpy()
        y, x = np.mgrid[: b - a, : d - c]
        own[tile] = np.exp(
            -0.5 * ((y - (b - a - 1) / 2) / (SIGMA * (b - a))) ** 2
            - 0.5 * ((x - (d - c - 1) / 2) / (SIGMA * (d - c))) ** 2
        )
        gauss_total[a:b, c:d] += own[tile]
    np.testing.assert_allclose(total, 1, atol=1e-12)
    for tile, gauss in own.items():
        got = (rows[tile.rows][:, None] * cols[tile.cols]).numpy()
        (a, b), (c, d) = tile.rows, tile.cols
        np.testing.assert_allclose(got, gauss / gauss_total[a:b, c:d], atol=1e-9)


def test_a_whole_tile_weighs_as_in_a_sliding_window() -> None:
    """The Gaussian is the importance map in common use."""
    utils = pytest.importorskip("monai.data.utils")
    expected = utils.compute_importance_map((64, 96), mode="gaussian", sigma_scale=SIGMA)
    from napari_attnseg.engine.tiling import _gaussian

    ours = _gaussian(64)[:, None] * _gaussian(96)
    np.testing.assert_allclose(ours / ours.max(), expected / expected.max(), atol=2e-3)


def test_constant_logits_stay_constant() -> None:
    plan = Plan.of((77, 143), 32, 8)
    assert len(plan) > 9
    constant = torch.tensor([3.7, -2.1]).view(1, 2, 1, 1)
    whole = plan.blend((t, t.of(constant.expand(1, 2, 77, 143))) for t in plan.tiles(0))
    np.testing.assert_allclose(whole, constant.expand(1, 2, 77, 143), rtol=1e-6)


# --- answers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("use_cells", [True, False])
@pytest.mark.parametrize("tile", [143, 512])
def test_a_tile_as_large_as_the_image_changes_nothing(tile: int, use_cells: bool) -> None:
    model = lively_model()
    whole = make_session(model, ODD, None, use_cells=use_cells)
    asked = make_session(model, ODD, tile, use_cells=use_cells)
    a, b = whole.predict(), asked.predict()
    np.testing.assert_array_equal(a.logits, b.logits)
    np.testing.assert_array_equal(a.step, b.step)
    np.testing.assert_array_equal(a.received, b.received)
    assert asked.notes == whole.notes
    assert asked.provenance() == whole.provenance()
    assert asked.provenance()["tile"] is None


@pytest.mark.parametrize("shape", [(77, 143), (7, 143), (154, 11), (133, 121)])
@pytest.mark.parametrize("size", [None, 96])
def test_a_pointwise_model_answers_the_same_in_tiles(
    shape: tuple[int, int], size: int | None
) -> None:
    image = RNG.random(shape).astype(np.float32)
    a = make_session(Pointwise(), image, None, size=size).predict()
    cut = make_session(Pointwise(), image, 40, size=size)
    b = cut.predict()
    assert cut.tiled
    np.testing.assert_allclose(b.logits, a.logits, atol=2e-6)
    np.testing.assert_allclose(b.probability, a.probability, atol=1e-6)
    unsure = np.abs(a.probability - 0.5) < 1e-5
    np.testing.assert_array_equal(b.labels[~unsure], a.labels[~unsure])
    assert len(np.unique(b.labels)) == 3


def test_a_constant_image_gives_a_constant_answer() -> None:
    grey = make_session(Pointwise(), np.full((77, 143), 9, np.uint8), 32).predict()
    assert np.ptp(grey.logits, (1, 2)).max() < 2e-6
    assert len(np.unique(grey.labels)) == 1


@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("flips", [(False, False, False), (False, True, True)])
def test_tiles_are_the_model_on_parts_of_the_slice(
    classes: int, flips: tuple[bool, bool, bool]
) -> None:
    """Slow oracle: forward on every part, Gaussian sums in float64, one cut."""
    model = lively_model(classes)
    session = make_session(model, ODD, 64, flips=flips)
    got = session.predict()
    turned = ODD[:: -1 if flips[1] else 1, :: -1 if flips[2] else 1]
    low, high = np.percentile(ODD, [1, 99])
    x = (np.clip((turned - low) / (high - low), 0, 1) - 0.4) / 0.3
    x = torch.from_numpy(np.ascontiguousarray(x, np.float32))[None, None]
    total, weight = np.zeros((classes, 77, 143)), np.zeros((77, 143))
    for (a, b), (c, d) in itertools.product(spans(77, 64, 8), spans(143, 64, 8)):
        with torch.no_grad():
            part = model(x[..., a:b, c:d], threshold=session.tuning.get("threshold"))[0].numpy()
        y = np.exp(-0.5 * ((np.arange(b - a) - (b - a - 1) / 2) / (SIGMA * (b - a))) ** 2)
        z = np.exp(-0.5 * ((np.arange(d - c) - (d - c - 1) / 2) / (SIGMA * (d - c))) ** 2)
        total[:, a:b, c:d] += part * y[:, None] * z
        weight[a:b, c:d] += y[:, None] * z
    expected = (total / weight)[:, :: -1 if flips[1] else 1, :: -1 if flips[2] else 1]
    np.testing.assert_allclose(got.logits, expected, atol=5e-4)
    whole = make_session(model, ODD, None, flips=flips).predict()
    assert np.abs(whole.logits - got.logits).max() > 0.05  # which is why it must be asked for


def test_moving_a_value_repeats_no_heavy_half() -> None:
    session = make_session(lively_model(), ODD, 64)
    t = session.tuning
    first = session.predict(0, t.replace(threshold=2.0))
    count = dict(session.pipeline.chain.counts)
    tiles = len(spans(77, 64, 8)) * len(spans(143, 64, 8))
    assert count["encode"] == count["attend"] == tiles
    assert first.woken[0] == "prepare"
    second = session.predict(0, t.replace(threshold=0.0))
    assert second.woken == ("select", "blend", "fit", "cut")
    assert session.pipeline.chain.counts["encode"] == tiles
    assert not np.array_equal(first.logits, second.logits)
    full = make_session(session.model, ODD, 64, use_cells=False)
    np.testing.assert_array_equal(full.predict(0, t.replace(threshold=0.0)).logits, second.logits)


# --- what is said -------------------------------------------------------------------------------


def test_notes_and_provenance_say_it() -> None:
    session = make_session(lively_model(), ODD, 64)
    (note,) = session.notes
    assert "tiles of 64 pixels" in note
    assert "differs from that of the whole image" in note
    assert "no step and received maps" in note
    told = json.loads(json.dumps(session.provenance()))
    assert told["tile"] == {"pixels": 64, "overlap": 0.25}
    assert note in told["notes"]
    answer = session.predict()
    assert answer.step is None
    assert answer.received is None
    session.set_image(ODD[:50, :60])
    assert session.notes == ()
    assert session.predict().step is not None


def test_the_note_speaks_only_of_what_the_model_has() -> None:
    from napari_attnseg import create_model

    for name, attends in (("unet", False), ("attention_unet", True)):
        model = create_model(name, in_channels=1, classes=1, width=0.06)
        (note,) = make_session(model, ODD, 64).notes
        assert "received maps" not in note
        assert ("a global attention sees" in note) == attends
        assert ("the network sees" in note) != attends


def test_maps_of_a_slice_in_tiles_are_refused_with_a_sentence() -> None:
    session = make_session(lively_model(), ODD, 64)
    with pytest.raises(InputError, match="cut into tiles"):
        session.attention_row(0, 3, 3)
    with pytest.raises(InputError, match="cut into tiles"):
        session.fingerprint(0)
    assert sum(session.compare(0, session.tuning.replace(threshold=0.0)).counts[:2]) > 0


@pytest.mark.parametrize("tile", [-5, 0, 8, 15])
def test_too_small_a_tile_is_refused(tile: int) -> None:
    with pytest.raises(InputError, match="expected at least 16"):
        Session(lively_model(), "cpu", tile=tile)


def test_a_closed_run_computes_no_further_slice() -> None:
    session = make_session(lively_model(), VOLUME, 24)
    tiles = len(spans(55, 24, 8)) * len(spans(33, 24, 8))
    events = session.run(order=(6, 2, 0))
    assert [next(events)[0], next(events)[0]] == [6, 2]
    events.close()
    assert session.pipeline.chain.counts["encode"] == 2 * tiles


def test_the_end_of_memory_names_size_and_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    session = make_session(lively_model(), ODD, None)
    tried: list[int | None] = []

    def full(encoded: Any) -> None:
        tried.append(session.model.attention.block_bytes)
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 B")

    monkeypatch.setattr(session.model, "attend", full)
    with pytest.raises(MemoryEndedError) as error:
        session.predict()
    assert tried == [None, *BLOCKS]
    assert failure(Predict(5), error.value).tile == error.value.tile == 64
    text = str(error.value)
    assert text.startswith("got a slice of 77 x 143 pixels, but memory ran out on cpu")
    assert "use `--tile 64`" in text
    assert "changes the answer of a global attention" in text


@pytest.mark.parametrize(
    ("size", "tile", "words"),
    [
        ((5000, 4000), None, "--tile 512`"),
        ((700, 900), None, "--tile 256`"),
        ((5000, 4000), 512, "--tile 256`"),
        ((5000, 4000), 64, "close other programs"),
        ((60, 40), None, "close other programs"),
    ],
)
def test_advice_is_a_tile_that_helps(size: tuple[int, int], tile: int | None, words: str) -> None:
    text = tile_advice(size, tile, 32)
    assert words in text
    assert ("--tile" in text) == ("--tile" in words)
    offered = helpful_tile(size, tile, 32)
    assert (f"--tile {offered}`" in text) if offered else ("--tile" not in text)


# --- the ways to ask ----------------------------------------------------------------------------


def test_the_engine_passes_it_on_and_stops_between_slices(
    tmp_path: Path, tiny_checkpoint: Path
) -> None:
    np.save(tmp_path / "image.npy", VOLUME)
    ref = ImageRef("k", str(tmp_path / "image.npy"))
    out = str(tmp_path / "out")
    whole = Predict(1, ref, str(tiny_checkpoint), "cpu", order=(0, 3, 5), out=out)
    engine = Engine()
    events = []
    for event in engine.handle(replace(whole, tile=24)):
        events.append(event)
        if isinstance(event, SliceDone) and event.z == 3:
            engine.stop(1)
    started, ended = events[0], events[-1]
    assert isinstance(started, Started)
    assert isinstance(ended, Finished)
    assert set(started.files) == {"labels", "probability"}
    assert any("tiles of 24" in note for note in started.notes)
    assert (ended.reason, ended.summary["done"]) == ("cancelled", 2)
    cut = np.load(started.files["probability"])
    assert [bool(p.any()) for p in cut] == [True, False, False, True, False, False, False]
    session = Session(tiny_checkpoint, "cpu", tile=24)
    session.set_image(VOLUME)
    np.testing.assert_array_equal(cut[3], session.predict(3).probability)
    (*_, done) = engine.handle(replace(whole, order=(3,)))
    assert isinstance(done, Finished)
    assert done.summary["provenance"]["tile"] is None
    assert np.load(done.outputs["step"]).any()
    engine.close()


def test_cancel_acts_between_the_tiles_of_one_slice(tmp_path: Path, tiny_checkpoint: Path) -> None:
    """A live question is answered between two tiles; after Cancel no further tile is computed."""
    np.save(tmp_path / "image.npy", VOLUME)
    ref = ImageRef("k", str(tmp_path / "image.npy"))
    work = Predict(1, ref, str(tiny_checkpoint), "cpu", order=(3, 0), out=str(tmp_path), tile=24)
    engine = Engine()
    events = engine.handle(work)
    started = next(events)
    assert isinstance(started, Started)
    assert next(events) is None, "a pause after the first tile"
    (session,) = engine._sessions.kept.values()
    tiles = session.pipeline.chain.counts["decode"] + session.pipeline.chain.counts["variants"]
    assert tiles == 1
    assert next(events) is None
    live = str(tmp_path / "live")
    (*_, retuned) = engine.handle(Retune(2, ref, work.checkpoint, "cpu", z=5, out=live, tile=24))
    assert isinstance(retuned, Retuned)
    whole = Session(tiny_checkpoint, "cpu", tile=24)
    whole.set_image(VOLUME)
    np.testing.assert_array_equal(
        np.load(f"{live}/live_labels.npy")[retuned.buffer], whole.predict(5).labels
    )
    before = session.pipeline.chain.counts.copy()
    engine.stop(1)
    (ended,) = events
    assert isinstance(ended, Finished)
    assert (ended.reason, ended.summary["done"]) == ("cancelled", 0)
    assert session.pipeline.chain.counts == before
    assert not np.load(started.files["probability"]).any()
    again = list(engine.handle(replace(work, id=3)))
    assert isinstance(again[-1], Finished)
    np.testing.assert_array_equal(
        np.load(started.files["probability"])[3], whole.predict(3).probability
    )
    engine.close()


def test_the_command_line_says_it(tmp_path: Path, tiny_checkpoint: Path) -> None:
    from skimage.io import imread, imsave
    from typer.testing import CliRunner

    from napari_attnseg.cli import app

    image = RNG.integers(0, 255, (77, 43)).astype(np.uint8)
    imsave(tmp_path / "a.png", image, check_contrast=False)
    words = ["predict", tiny_checkpoint, tmp_path / "a.png", "--out", tmp_path / "o", "--tile", 32]
    done = CliRunner().invoke(app, [str(w) for w in words])
    assert done.exit_code == 0, done.output
    assert "a.png: slices are cut into overlapping tiles of 32 pixels" in done.output
    session = Session(tiny_checkpoint, "cpu", tile=32)
    session.set_image(image)
    np.testing.assert_array_equal(
        imread(tmp_path / "o" / "a_mask.png") > 0, session.predict().labels > 0
    )
