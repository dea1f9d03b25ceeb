"""Refining a slice by hand: any coarse map, any iterations, strokes; against the parts alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from napari_attnseg.control.message_base import ImageRef
from napari_attnseg.control.refining import Affinity, Refine
from napari_attnseg.engine import anchoring
from napari_attnseg.engine.anchoring import at_working_size
from napari_attnseg.engine.refine_desk import RefineDesk
from napari_attnseg.engine.refining import guided
from napari_attnseg.engine.session import Session
from napari_attnseg.errors import InputError
from napari_attnseg.models.base import create_model
from napari_attnseg.models.checkpoint import load_checkpoint, save_checkpoint
from napari_attnseg.models.refined import RefinedModel
from napari_attnseg.refinement.likeness import adapt, look
from napari_attnseg.refinement.strokes import SHORT, carry
from napari_attnseg.settings import Preprocessing, Tuning
from refined_models import refined_checkpoint

SHAPE = (2, 150, 173)
IMAGE = np.random.default_rng(3).normal(100, 30, SHAPE).clip(0, 255).astype(np.uint8)
REF = ImageRef("image", "unused")
BOTH = pytest.mark.parametrize("kind", ["cspn", "dyspn"])


@pytest.fixture(scope="module")
def checkpoints(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("refined")
    kinds = ("cspn", "dyspn")
    return {k: refined_checkpoint(tiny_checkpoint, folder / f"{k}.safetensors", k) for k in kinds}


def opened(path: Path, flips: tuple[bool, bool, bool] = (False, False, False)) -> Session:
    session = Session(path, "cpu")
    session.set_image(IMAGE, flips=flips)
    return session


def wish(session: Session, **values: object) -> Refine:
    """A request with a cut that leaves both classes in the mask."""
    cut = float(np.median(session.steps(0)[0].probability))
    return replace(
        Refine(image=REF, tuning=session.tuning.replace(cut=cut), iterations=3),
        **values,  # type: ignore[arg-type]
    )


@pytest.fixture(params=["cspn", "dyspn"])
def session(request: pytest.FixtureRequest, checkpoints: dict[str, Path]) -> Session:
    return opened(checkpoints[request.param])


@pytest.fixture
def strokes(tmp_path: Path) -> np.memmap:
    """An empty strokes file beside ``tmp_path``'s others; its path is ``strokes.filename``."""
    return np.lib.format.open_memmap(tmp_path / "strokes.npy", "w+", np.uint8, SHAPE)


# --- without strokes -----------------------------------------------------------------------------


def test_without_strokes_it_is_what_the_model_predicts(session: Session) -> None:
    desk = RefineDesk(session)
    for z in (0, 1):
        for count in (0, 1, 3):
            work = wish(session, z=z, iterations=count)
            shown = desk.show(work)
            told = session.predict(z, work.tuning.replace(iterations=count))
            assert np.array_equal(shown.labels, told.labels)
            assert np.allclose(shown.probability, told.probability, atol=1e-6)
            assert 0 < np.count_nonzero(shown.labels) < shown.labels.size


def test_only_what_is_new_is_computed(session: Session) -> None:
    desk = RefineDesk(session)
    fresh = Session(session.name, "cpu")
    fresh.set_image(IMAGE)
    desk = RefineDesk(fresh)
    work = wish(session)
    desk.show(work)
    assert desk.woken == ("coarse", "guidance", "iterations")
    for count, woken in ((2, ()), (3, ()), (5, ("iterations",)), (4, ()), (1, ())):
        desk.show(replace(work, iterations=count))
        assert desk.woken == woken
    desk.show(replace(work, tuning=work.tuning.replace(cut=0.3)))
    assert desk.woken == ()
    desk.show(replace(work, z=1))
    assert desk.woken == ("coarse", "guidance", "iterations")
    desk.show(work)
    assert desk.woken == ()


@BOTH
def test_more_iterations_than_trained(checkpoints: dict[str, Path], kind: str) -> None:
    session = opened(checkpoints[kind])
    shown = RefineDesk(session).show(wish(session, iterations=7))
    model = session.model
    assert isinstance(model, RefinedModel)
    with torch.no_grad():
        guided = model.guide(model.encode(session._prepare(0)), **gate_values(session))
        attention = guided.attention
        if attention is not None:  # the last iteration's goes on
            attention = torch.cat([attention, attention[:, -1:].expand(-1, 4, -1, -1, -1)], 1)
        steps = model.refinement.lasting(7).steps(guided.start, guided.affinity, attention)
        *_, x = steps
    assert np.allclose(shown.probability, torch.sigmoid(x)[0, 0].numpy(), atol=1e-6)


def gate_values(session: Session) -> dict[str, object]:
    values = session._values(None)
    names = [t.name for t in session.model.tunables if t.stage == "gate"]
    return {n: values[n] for n in names if n != "iterations"}


# --- a coarse map from outside -------------------------------------------------------------------


def test_the_models_own_probability_as_a_layer_gives_its_own_answer(
    session: Session, tmp_path: Path
) -> None:
    work = wish(session)
    own = RefineDesk(session).show(work)
    coarse = np.stack([session.steps(z, work.tuning)[0].probability for z in (0, 1)])
    np.save(tmp_path / "p.npy", coarse)
    desk = RefineDesk(session)
    shown = desk.show(replace(work, coarse=str(tmp_path / "p.npy"), coarse_kind="probability"))
    assert desk.woken == ("guidance", "iterations")
    assert np.abs(shown.probability - own.probability).max() < 1e-4


def test_labels_are_refined_and_kept_by_their_content(session: Session, tmp_path: Path) -> None:
    ids = np.zeros(SHAPE, np.uint16)
    ids[:, 40:90, 30:120] = 900
    path = tmp_path / "ids.npy"
    np.save(path, ids)
    work = wish(session, coarse=str(path), coarse_kind="labels", tuning=Tuning.of(0.5))
    desk = RefineDesk(session)
    coarse = desk.show(replace(work, iterations=0))
    assert np.array_equal(coarse.labels, (ids[0] > 0).astype(np.uint8))
    shown = desk.show(work)
    model = session.model
    assert isinstance(model, RefinedModel)
    with torch.no_grad():  # the parts alone
        start = torch.from_numpy(np.where(ids[0] > 0, 6.0, -6.0)).float()[None, None]
        affinity, attention = model.guidance(session._prepare(0), start / 6)
        *_, last = model.refinement.steps(start, affinity, attention)
    assert np.allclose(shown.probability, torch.sigmoid(last)[0, 0].numpy(), atol=1e-6)
    np.save(path, ids)  # written again, the same pixels
    desk.show(work)
    assert desk.woken == ()
    ids[0, 0, 0] = 1
    np.save(path, ids)
    desk.show(work)
    assert desk.woken == ("guidance", "iterations")


# --- strokes -------------------------------------------------------------------------------------


def paint(strokes: np.ndarray, y: int, x: int, label: int, side: int = 5) -> None:
    strokes[0, y : y + side, x : x + side] = label


def test_strokes_are_held_and_move_their_neighbours(session: Session, strokes: np.memmap) -> None:
    desk = RefineDesk(session)
    work = wish(session, strokes=str(strokes.filename))
    before = desk.show(work)
    paint(strokes, 20, 30, 1)
    paint(strokes, 90, 120, 2)
    shown = desk.show(work)
    assert (shown.labels[20:25, 30:35] == 0).all()
    assert (shown.labels[90:95, 120:125] == 1).all()
    assert shown.anchored == 50
    moved = shown.probability != before.probability
    assert moved[strokes[0] == 0].any(), "nothing but the strokes themselves changed"
    assert np.array_equal(desk.show(replace(work, strength=0.0)).labels, before.labels)
    other = desk.show(replace(work, z=1))
    assert np.array_equal(other.labels, RefineDesk(session).show(replace(work, z=1)).labels)
    assert other.anchored == 0


def test_strokes_are_told_of_the_whole_slice_and_then_carried(
    session: Session, strokes: np.memmap
) -> None:
    """The desk's logits are those of the two functions over the whole slice, and its probability
    those of the slice, although strokes are carried on in a window."""
    desk = RefineDesk(session)
    work = wish(session, strokes=str(strokes.filename))
    plain = desk.show(work).logits
    paint(strokes, 20, 30, 1)
    paint(strokes, 40, 42, 2)
    shown = desk.show(work)
    model = session.model
    assert isinstance(model, RefinedModel)
    size = (plain.shape[2], plain.shape[3])
    held = anchoring.anchors(at_working_size(strokes[0], size), 1, 1.0, plain.device)
    told = adapt(plain, look(session._prepare(0)), held)
    given = guided(session.pipeline, 0, session._values(work.tuning))
    attention = None if given.attention is None else given.attention[:, :3]
    refinement = model.refinement.lasting(3)
    wanted = carry(
        given.start, given.affinity, attention, refinement, held, answer=told, walk=SHORT
    )
    assert not torch.equal(told, plain)
    assert torch.allclose(shown.logits, wanted, atol=1e-5)


def test_half_a_strength_pulls_less(session: Session, strokes: np.memmap) -> None:
    desk = RefineDesk(session)
    work = wish(session, strokes=str(strokes.filename))
    before = desk.show(work).probability
    paint(strokes, 90, 120, 2)
    here = np.s_[90:95, 120:125]
    half = desk.show(replace(work, strength=0.5)).probability[here]
    full = desk.show(work).probability[here]
    assert (before[here] < half).all()
    assert (half < full).all()


@BOTH
def test_any_order_of_painting_and_undoing_gives_the_same_bits(
    checkpoints: dict[str, Path], kind: str, tmp_path: Path
) -> None:
    """The answer is that of a desk that never saw the strokes before, bit for bit, although only
    a window of this image, which is wider than strokes can reach, is computed again."""
    shape = (1, 391, 367)
    session = Session(checkpoints[kind], "cpu")
    session.set_image(np.random.default_rng(1).normal(100, 30, shape).astype(np.float32))
    strokes = np.lib.format.open_memmap(tmp_path / "large.npy", "w+", np.uint8, shape)
    desk = RefineDesk(session)
    work = wish(session, strokes=str(strokes.filename))
    rng = np.random.default_rng(0)
    history, answers = [np.array(strokes)], [desk.show(work)]
    for _ in range(10):
        y, x = rng.integers(0, (shape[1] - 9, shape[2] - 9))
        paint(strokes, int(y), int(x), int(rng.integers(0, 3)), int(rng.integers(1, 9)))
        history.append(np.array(strokes))
        answers.append(desk.show(work))
    assert not np.array_equal(answers[0].probability, answers[10].probability)
    for i in (9, 8, 4, 7, 0, 10):  # undo, undo, far back, redo, all away, all again
        strokes[:] = history[i]
        again, fresh = desk.show(work), RefineDesk(session).show(work)
        for other in (answers[i], fresh):
            assert again.labels.tobytes() == other.labels.tobytes()
            assert again.probability.tobytes() == other.probability.tobytes()


def test_a_cut_never_takes_a_stroke_away(session: Session, strokes: np.memmap) -> None:
    paint(strokes, 90, 120, 2)
    paint(strokes, 10, 12, 1)
    for cut in (0.001, 0.9999):
        work = wish(session, strokes=str(strokes.filename), tuning=Tuning.of(cut))
        labels = RefineDesk(session).show(work).labels
        assert (labels[90:95, 120:125] == 1).all()
        assert (labels[10:15, 12:17] == 0).all()


def test_strokes_are_carried_to_slices_beside(
    checkpoints: dict[str, Path], strokes: np.memmap, tmp_path: Path
) -> None:
    alike = np.stack([IMAGE[0]] * 3)
    session = Session(checkpoints["cspn"], "cpu")
    session.set_image(alike)
    deep = np.lib.format.open_memmap(tmp_path / "deep.npy", "w+", np.uint8, alike.shape)
    work = wish(session, strokes=str(deep.filename), carry=1)
    desk = RefineDesk(session)
    before = [desk.show(replace(work, z=z)) for z in range(3)]
    alone = desk.show(replace(work, z=1, carry=0))
    assert before[1].probability.tobytes() == alone.probability.tobytes(), "nothing was painted"
    deep[0, 90:97, 110:117] = 1 + (before[0].labels[93, 113] == 0)
    shown = [desk.show(replace(work, z=z)) for z in range(3)]
    assert [s.anchored for s in shown] == [49, 0, 0]
    assert (shown[0].labels[90:97, 110:117] == deep[0, 93, 113] - 1).all()
    here = np.s_[90:97, 110:117]
    pull = [
        np.abs(s.probability - b.probability)[here].mean()
        for s, b in zip(shown, before, strict=True)
    ]
    assert pull[0] > pull[1] > 0.001
    assert pull[2] == 0, "further than one slice"
    assert desk.show(replace(work, z=2, carry=2)).probability[here].mean() != pytest.approx(
        before[2].probability[here].mean(), abs=1e-6
    )
    deep[0] = 0
    for z in range(3):
        again = desk.show(replace(work, z=z))
        assert again.probability.tobytes() == before[z].probability.tobytes()


def test_nothing_is_carried_where_slices_differ(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    """Across slices a stroke goes as far as they look alike: here they are each other's
    negative."""
    session = Session(checkpoints["cspn"], "cpu")
    image = np.where(IMAGE[:1] > 100, 255, 0).astype(np.uint8)
    session.set_image(np.concatenate([image, 255 - image]))
    path = tmp_path / "two.npy"
    strokes = np.lib.format.open_memmap(path, "w+", np.uint8, (2, *SHAPE[1:]))
    work = wish(session, strokes=str(path), carry=1, z=1)
    desk = RefineDesk(session)
    before = desk.show(work)
    strokes[0, 60:70, 60:70] = 2
    assert np.abs(desk.show(work).probability - before.probability).max() < 1e-6


# --- every step ----------------------------------------------------------------------------------


def test_steps_are_the_answers_of_so_many_iterations(session: Session, strokes: np.memmap) -> None:
    paint(strokes, 60, 60, 2)
    paint(strokes, 70, 75, 1)
    work = wish(session, strokes=str(strokes.filename))
    desk = RefineDesk(session)
    steps = list(desk.steps(work))
    assert len(steps) == 4
    coarse = desk.show(replace(work, iterations=0, strokes=""))
    assert np.array_equal(steps[0].labels, coarse.labels), "step 0 is the coarse mask as it is"
    for count in (1, 2, 3):
        told = desk.show(replace(work, iterations=count))
        assert steps[count].labels.tobytes() == told.labels.tobytes()
        assert steps[count].probability.tobytes() == told.probability.tobytes()


def test_attention_of_every_iteration(checkpoints: dict[str, Path]) -> None:
    session = opened(checkpoints["dyspn"])
    desk = RefineDesk(session)
    found = desk.attention(wish(session, iterations=5))
    assert found is not None
    assert found.shape == (5, 4, *SHAPE[1:])
    assert found.dtype == np.float32
    assert 0 < found.min() < found.max() < 1
    assert np.array_equal(found[2], found[4]), "beyond the trained ones the last goes on"
    assert not np.array_equal(found[1], found[2])
    plain = RefineDesk(opened(checkpoints["cspn"]))
    assert plain.attention(wish(plain.session)) is None  # type: ignore[arg-type]


# --- geometry ------------------------------------------------------------------------------------


@BOTH
def test_flipped_images_give_flipped_answers(
    checkpoints: dict[str, Path], kind: str, strokes: np.memmap, tmp_path: Path
) -> None:
    paint(strokes, 20, 30, 2)
    paint(strokes, 100, 90, 1)
    ids = (IMAGE > 110).astype(np.uint8)
    np.save(tmp_path / "ids.npy", ids)
    np.save(tmp_path / "ids_flipped.npy", ids[:, ::-1, ::-1])
    np.save(tmp_path / "strokes_flipped.npy", strokes[:, ::-1, ::-1])
    session = opened(checkpoints[kind])
    flipped = Session(checkpoints[kind], "cpu")
    flipped.set_image(IMAGE[:, ::-1, ::-1], flips=(False, True, True))
    work = wish(
        session,
        coarse=str(tmp_path / "ids.npy"),
        coarse_kind="labels",
        strokes=str(strokes.filename),
    )
    turned = replace(
        work,
        coarse=str(tmp_path / "ids_flipped.npy"),
        strokes=str(tmp_path / "strokes_flipped.npy"),
    )
    straight, other = RefineDesk(session).show(work), RefineDesk(flipped).show(turned)
    assert np.array_equal(straight.probability, other.probability[::-1, ::-1])
    assert np.array_equal(straight.labels, other.labels[::-1, ::-1])
    at = Affinity(image=REF, tuning=work.tuning, y=40, x=31)
    mirrored = replace(at, y=SHAPE[1] - 1 - 40, x=SHAPE[2] - 1 - 31)
    a, b = RefineDesk(session).weights(at), RefineDesk(flipped).weights(mirrored)
    assert a.offsets == tuple((-dy, -dx) for dy, dx in b.offsets)
    assert a.weights == b.weights


@pytest.mark.parametrize("size", [64, 256])
def test_working_size_comes_back_to_the_pixels(
    checkpoints: dict[str, Path], strokes: np.memmap, tmp_path: Path, size: int
) -> None:
    found = load_checkpoint(checkpoints["cspn"])
    card = replace(found.card, preprocessing=Preprocessing(size=size))
    save_checkpoint(tmp_path / "sized.safetensors", found.model, card)
    session = opened(tmp_path / "sized.safetensors")
    strokes[0, 70, 20:150] = 2  # a line of one pixel
    paint(strokes, 100, 90, 1)
    work = wish(session, strokes=str(strokes.filename))
    shown = RefineDesk(session).show(work)
    assert shown.labels.shape == shown.probability.shape == SHAPE[1:]
    assert (shown.labels[70, 20:150] == 1).all()
    assert (shown.labels[100:105, 90:95] == 0).all()
    before = RefineDesk(session).show(replace(work, strokes=""))
    moved = (shown.probability != before.probability) & (strokes[0] == 0)
    rows = np.flatnonzero(moved.any(1))
    assert rows.min() < 68
    assert rows.max() > 72
    at = Affinity(image=REF, tuning=work.tuning, y=149, x=172)
    weights = RefineDesk(session).weights(at)
    outside = [
        w for (dy, dx), w in zip(weights.offsets, weights.weights, strict=True) if 1 in (dy, dx)
    ]
    assert outside == [0.0] * 5, "the last pixel is the last cell"


# --- affinity of a pixel -------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("at", [(0, 0), (60, 80), (149, 3), (148, 172)])
def test_weights_are_those_of_the_formula(
    checkpoints: dict[str, Path], kind: str, at: tuple[int, int]
) -> None:
    session = opened(checkpoints[kind])
    y, x = at
    found = RefineDesk(session).weights(Affinity(image=REF, tuning=session.tuning, y=y, x=x))
    model = session.model
    assert isinstance(model, RefinedModel)
    with torch.no_grad():
        guided = model.guide(model.encode(session._prepare(0)), **gate_values(session))
    raw = guided.affinity[0, :, y, x].double().tolist()
    inside = [0 <= y + dy < SHAPE[1] and 0 <= x + dx < SHAPE[2] for dy, dx in found.offsets]
    a = [value if i else 0.0 for value, i in zip(raw, inside, strict=True)]
    if kind == "cspn":
        whole = sum(abs(v) for v in a) + 1e-8
        weights, centre = [v / whole for v in a], 0.0
    else:
        assert guided.attention is not None
        pi = guided.attention[0, 0, :, y, x].double().tolist()
        ring = [max(abs(dy), abs(dx)) for dy, dx in found.offsets]
        whole = sum(pi[r] * abs(v) for r, v in zip(ring, a, strict=True)) + pi[0] + 1e-4
        weights = [pi[r] * v / whole for r, v in zip(ring, a, strict=True)]
        centre = pi[0] / whole
    assert found.weights == pytest.approx(weights, abs=1e-5)
    assert found.centre == pytest.approx(centre, abs=1e-5)
    assert found.residual == pytest.approx(1 - sum(weights) - centre, abs=1e-5)


# --- what cannot be done -------------------------------------------------------------------------


def test_clear_sentences(session: Session, tmp_path: Path, strokes: np.memmap) -> None:
    desk, work = RefineDesk(session), wish(session)
    before = desk.show(work)
    np.save(tmp_path / "small.npy", np.zeros((2, 9, 9), np.uint8))
    np.save(tmp_path / "float.npy", np.zeros(SHAPE, np.float32))
    small = str(tmp_path / "small.npy")
    for change, words in (
        ({"iterations": 201}, "got iterations=201, expected 0 to 200"),
        ({"strength": 1.5}, "got strength=1.5, expected 0"),
        ({"carry": -1}, "got carry=-1, expected a number of slices"),
        ({"z": 2}, "got slice 2, expected 0 to 1"),
        ({"coarse": small, "coarse_kind": "labels"}, "a coarse map of 2 x 9 x 9, expected 2 x 150"),
        ({"strokes": small}, "got strokes of 2 x 9 x 9"),
        ({"strokes": str(tmp_path / "float.npy")}, "strokes of type float32, expected uint8"),
    ):
        with pytest.raises(InputError, match=words):
            desk.show(replace(work, **change))  # type: ignore[arg-type]
    strokes[0, 3, 3] = 9
    with pytest.raises(InputError, match="label 9, expected at most 2"):
        desk.show(replace(work, strokes=str(strokes.filename)))
    with pytest.raises(InputError, match="lies outside the slice of 150 x 173"):
        desk.weights(Affinity(image=REF, tuning=work.tuning, y=150, x=0))
    assert np.array_equal(desk.show(work).labels, before.labels)


def test_other_models_and_tiles_are_told(session: Session, tiny_checkpoint: Path) -> None:
    with pytest.raises(InputError, match="choose a refined one"):
        RefineDesk(opened(tiny_checkpoint)).show(Refine(image=REF))
    cut_up = Session(session.name, "cpu", tile=32)
    cut_up.set_image(IMAGE)
    with pytest.raises(InputError, match="no refinement by hand of a slice that is cut into tiles"):
        RefineDesk(cut_up).show(Refine(image=REF, tuning=session.tuning))


def test_when_memory_runs_out_what_is_kept_goes_first(
    session: Session, strokes: np.memmap, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = RefineDesk(session)
    work = wish(session, strokes=str(strokes.filename))
    paint(strokes, 60, 60, 2)
    before = desk.show(work)
    model = session.model
    assert isinstance(model, RefinedModel)
    tight = [True]
    guide = model.guidance.forward

    def short(*inputs: torch.Tensor) -> object:
        if tight:
            tight.clear()
            raise MemoryError
        return guide(*inputs)

    monkeypatch.setattr(model.guidance, "forward", short)
    desk.show(replace(work, z=1))
    assert any("memory ran out" in note for note in session.notes)
    again = desk.show(work)
    assert desk.woken == ("coarse", "guidance", "iterations", "strokes"), "nothing was kept"
    assert np.array_equal(again.labels, before.labels)


def test_several_classes(strokes: np.memmap, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = create_model(
        "refined", in_channels=1, classes=3, coarse="smooth_unet", width=0.125, levels=2
    )
    with torch.no_grad():
        model.guidance.affinity.weight.mul_(20)  # type: ignore[union-attr]
    session = Session(model, "cpu")
    session.set_image(IMAGE)
    ids = np.zeros(SHAPE, np.uint8)
    ids[:, 20:70, 20:70], ids[:, 60:120, 80:150] = 1, 2
    np.save(tmp_path / "ids.npy", ids)
    coarse = {"coarse": str(tmp_path / "ids.npy"), "coarse_kind": "labels"}
    work = Refine(image=REF, tuning=session.tuning, strokes=str(strokes.filename), **coarse)
    desk = RefineDesk(session)
    assert np.array_equal(desk.show(replace(work, iterations=0)).labels, ids[0])
    for y, label in ((30, 3), (80, 2), (130, 1)):  # class 2 in 1, class 1 in 2, background
        paint(strokes, y, 90, label)
    shown = desk.show(work)
    for y, label in ((30, 2), (80, 1), (130, 0)):
        assert (shown.labels[y : y + 5, 90:95] == label).all()
    assert set(np.unique(shown.labels)) == {0, 1, 2}
    ids[0, 0, 0] = 3
    np.save(tmp_path / "ids.npy", ids)
    with pytest.raises(InputError, match="ids from 0 to 3, expected 0 to 2"):
        desk.show(work)
    with pytest.raises(InputError, match="tells 3 classes apart"):
        desk.show(replace(work, coarse_kind="probability"))
