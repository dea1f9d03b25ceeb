"""The Tune dock against the real engine process; a Session in this process is the oracle."""

import numpy as np
import pytest

from napari_attnseg.control.child import ChildClient
from napari_attnseg.settings import PLAIN_THRESHOLD
from napari_attnseg.viewer.hub import hub_for
from napari_attnseg.widgets._bridge import to_main_thread
from napari_attnseg.widgets._compare import DIFFERENCE, TUNED
from napari_attnseg.widgets.tune import TuneWidget

pytestmark = pytest.mark.gui
RNG = np.random.default_rng(5)
IMAGE = RNG.random((66, 81)).astype(np.float32)
VOLUME = RNG.random((3, 41, 50)).astype(np.float32)
WAIT = 60_000  # ms; an engine start is 2 s on a quiet machine


class LentEngine(ChildClient):
    """One real engine process for all tests of this file; hubs may not end it."""

    def close(self):
        pass

    def end(self):
        super().close()


@pytest.fixture(scope="module")
def engine():
    client = LentEngine("live", to_main_thread)
    yield client
    client.end()


@pytest.fixture
def docked(make_napari_viewer, qtbot, tiny_checkpoint, engine, monkeypatch):
    """``docked(image)``: a Tune dock over ``image`` with the tiny model chosen."""
    monkeypatch.setattr("napari_attnseg.viewer.hub.ChildClient", lambda *_, **__: engine)
    hubs = []

    def make(image):
        viewer = make_napari_viewer()
        viewer.add_image(image, name="cells")
        hub = hub_for(viewer)
        hubs.append(hub)
        hub.set_model(str(tiny_checkpoint))
        widget = TuneWidget(viewer)
        qtbot.addWidget(widget)
        return widget

    yield make
    for hub in hubs:
        hub.close()


@pytest.fixture(scope="module")
def oracle(tiny_checkpoint):
    from napari_attnseg.engine.session import Session

    def ask(image):
        session = Session(str(tiny_checkpoint), device="cpu")
        session.set_image(image if image.ndim == 3 else image[None])
        return session

    return ask


def analysed(widget, qtbot):
    widget.analyse()
    qtbot.waitUntil(lambda: widget.curves is not None, timeout=WAIT)
    return widget.hub.results


def shown(widget):
    return np.asarray(widget.hub.results.layer("labels").data)


def wait_for(qtbot, condition):
    qtbot.waitUntil(condition, timeout=WAIT)


def test_empty_states_say_what_to_do(make_napari_viewer, qtbot, tiny_checkpoint):
    viewer = make_napari_viewer()
    hub = hub_for(viewer)
    widget = TuneWidget(viewer)
    qtbot.addWidget(widget)
    assert "Open one" in widget.title.text()
    viewer.add_image(IMAGE, name="cells")
    hub.set_model("")  # an image brings the model that suits it
    assert "Choose one in the Segment dock" in widget.title.text()
    assert widget.rows == {}
    hub.set_model(str(tiny_checkpoint))
    assert "tiny" in widget.title.text()
    assert list(widget.rows) == ["threshold", "rule", "gamma", "cut"]
    assert not widget.begin.isHidden()
    hub.close()


def test_analyse_shows_histogram_curves_and_count(docked, qtbot, oracle):
    widget = docked(IMAGE)
    analysed(widget, qtbot)
    step = oracle(IMAGE).predict(0).step
    assert np.allclose(np.sort(widget._step), np.sort(step.ravel()), atol=1e-6)
    over = int((step > widget.rows["threshold"].value()).sum())
    assert f"<b>{over:,}</b> of {step.size:,}" in widget.over.text()
    assert "objects" in widget.fingerprint.readout.text()
    wait_for(qtbot, lambda: widget.hub.results.layer("labels") is not None)
    assert widget.begin.isHidden()


def test_drag_follows_and_equals_a_fresh_prediction(docked, qtbot, oracle):
    widget = docked(IMAGE)
    analysed(widget, qtbot)
    widget.set_kind("quantile")
    slider = widget.rows["threshold"].slider
    slider.setSliderDown(True)
    for position in np.linspace(0.2, 0.5, 12):
        slider.setValue(float(position))
    session = oracle(IMAGE)
    expected = session.predict(0, widget.hub.tuning).labels
    wait_for(qtbot, lambda: np.array_equal(shown(widget), expected))
    assert widget.fingerprint.plot._threshold == widget.rows["threshold"].value()
    assert widget.hub.tuning.get("threshold") == widget.rows["threshold"].value()
    slider.setSliderDown(False)


def test_volume_only_the_visible_slice_until_release(docked, qtbot, oracle):
    widget = docked(VOLUME)
    hub = widget.hub
    hub.viewer.dims.set_point(0, 1)
    done = []
    hub.live.finished.connect(done.append)
    hub.run()
    wait_for(qtbot, lambda: bool(done))
    session, before = oracle(VOLUME), shown(widget).copy()
    slider = widget.rows["cut"].slider
    slider.setSliderDown(True)
    slider.setValue(float(np.median(session.predict(1).probability)))
    expected = [session.predict(z, hub.tuning).labels for z in range(3)]
    wait_for(qtbot, lambda: np.array_equal(shown(widget)[1], expected[1]))
    assert not np.array_equal(before[1], expected[1])
    assert np.array_equal(shown(widget)[[0, 2]], before[[0, 2]])
    slider.setSliderDown(False)
    wait_for(qtbot, lambda: np.array_equal(shown(widget), np.stack(expected)))


def test_difference_against_plain(docked, qtbot, oracle):
    widget = docked(IMAGE)
    results = analysed(widget, qtbot)
    wait_for(qtbot, lambda: results.layer("labels") is not None)
    session = oracle(IMAGE)
    median = float(np.median(session.predict(0).step))
    half = session.predict(0, widget.hub.tuning.replace(threshold=median)).probability
    widget.hub.tune(threshold=median, cut=float(np.median(half)))
    widget.compare.set_mode(DIFFERENCE)
    tuned = session.predict(0, widget.hub.tuning).labels > 0
    plain = session.predict(0, widget.hub.tuning.replace(threshold=PLAIN_THRESHOLD)).labels > 0
    expected = np.where(tuned & plain, 1, np.where(tuned, 2, np.where(plain, 3, 0)))
    assert (expected == 2).any() or (expected == 3).any()
    layer = lambda: results.layer("difference")  # noqa: E731
    wait_for(qtbot, lambda: layer() is not None and np.array_equal(layer().data, expected))
    assert layer().visible
    assert not results.layer("labels").visible
    assert f"<b>{int((tuned & ~plain).sum()):,}</b>&nbsp;gained" in widget.compare.counts.text()
    widget.hub.tune(threshold=PLAIN_THRESHOLD)
    wait_for(qtbot, lambda: widget.compare.counts.text().startswith("Same as plain attention"))
    widget.compare.set_mode(TUNED)
    assert results.layer("labels").visible
    assert not layer().visible
    assert not widget.hub.live.state.compare


def test_reference_gives_dice_and_a_wrong_one_a_sentence(docked, qtbot):
    widget = docked(IMAGE)
    analysed(widget, qtbot)
    viewer = widget.hub.viewer
    wrong = viewer.add_labels(np.zeros((10, 12), np.uint8), name="small")
    right = viewer.add_labels((IMAGE > 0.5).astype(np.uint8), name="truth")
    widget.reference.choose(wrong)
    wait_for(qtbot, lambda: "'small' is (10, 12)" in widget.error.message)
    widget.reference.choose(right)
    wait_for(qtbot, lambda: "Dice" in widget.fingerprint.readout.text())
    assert widget.error.message == ""


def test_two_thresholds_side_by_side(docked, qtbot, oracle):
    widget = docked(IMAGE)
    analysed(widget, qtbot)
    session, maps = oracle(IMAGE), widget.maps
    median = float(np.median(session.predict(0).step))
    maps.two.setChecked(True)
    maps.first.setValue(median)
    maps.second.setValue(PLAIN_THRESHOLD)
    maps.show_maps("image")
    views = lambda: [x for x in widget.hub.viewer.layers if "(image)" in x.name]  # noqa: E731
    wait_for(qtbot, lambda: len(views()) == 2)
    for view, spin in zip(views(), (maps.first, maps.second), strict=True):
        tuning = widget.hub.tuning.replace(threshold=spin.value())
        assert np.allclose(view.data, session.received(0, tuning), atol=1e-7)
    assert views()[1].translate[-1] > views()[0].translate[-1] + 80


def test_reset_puts_every_value_back(docked, qtbot):
    widget = docked(IMAGE)
    card = widget.hub.card
    widget.rows["gamma"].spin.setValue(0.5)
    widget.rows["rule"].combo.setCurrentText("suppress")
    assert widget.hub.tuning.get("rule") == "suppress"
    widget.reset_to_trained()
    assert widget.hub.tuning.get("rule") == card.tuning.get("rule")
    assert widget.hub.tuning.get("gamma") == pytest.approx(card.tuning.get("gamma"))
    assert widget.rows["rule"].value() == card.tuning.get("rule")


def test_other_docks_move_the_slider(docked):
    widget = docked(IMAGE)
    widget.hub.tune(threshold=0.33)
    assert widget.rows["threshold"].value() == 0.33
    assert widget.fingerprint.plot._threshold == 0.33


def test_narrow_dock_needs_no_more_than_300_pixels(docked):
    widget = docked(IMAGE)
    assert widget.minimumSizeHint().width() <= 300
    assert all(row.minimumSizeHint().width() <= 284 for row in widget.rows.values())


def test_figures_are_of_the_seen_slice_and_name_what_they_count(docked, qtbot, oracle):
    widget = docked(VOLUME)
    hub = widget.hub
    hub.viewer.dims.set_point(0, 1)
    analysed(widget, qtbot)
    session = oracle(VOLUME)
    cut = float(np.median(session.predict(1).probability))
    widget.rows["cut"].spin.setValue(round(cut, 3))
    area = lambda z: int((session.predict(z, hub.tuning).labels > 0).sum())  # noqa: E731
    wait_for(qtbot, lambda: widget.answer.words.text().startswith(f"Slice 1: {area(1):,} px in"))
    place = "slice 1, the model's own mask"
    figure = f"<b>{area(1):,}</b>"
    wait_for(qtbot, lambda: figure in widget.fingerprint.readout.text())
    assert place in widget.fingerprint.readout.text()

    hub.viewer.dims.set_point(0, 2)
    assert widget.answer.words.text() == ""
    assert figure not in widget.fingerprint.readout.text(), "the former slice's area is gone"
    hub.viewer.dims.set_point(0, 1)
    labels = hub.results.labels
    painted = 1 - labels.data[1, 0, :5]
    labels.data_setitem((np.ones(5, int), np.zeros(5, int), np.arange(5)), painted)
    widget.rows["cut"].spin.setValue(round(cut, 3) + 0.001)
    wait_for(qtbot, lambda: "(+ 5 painted)" in widget.answer.words.text())
    assert f"Slice 1: {area(1):,} px" in widget.answer.words.text()
    wait_for(qtbot, lambda: "5 painted pixels are not" in widget.fingerprint.readout.text())


def test_the_ground_of_the_plot_follows_the_theme(make_napari_viewer, qtbot):
    """What is really painted, in a corner of the plot where no curve is."""
    from napari.utils.theme import get_theme

    viewer = make_napari_viewer(show=True)
    viewer.theme = "dark"
    widget = TuneWidget(viewer)
    widget.fingerprint.show()
    viewer.window.add_dock_widget(widget, area="right")
    for name in ("dark", "light", "dark"):
        viewer.theme = name
        wanted = get_theme(name).background.as_rgb_tuple()

        def ground():
            plot = widget.fingerprint.plot
            color = plot.grab().toImage().pixelColor(3, plot.height() // 2)
            return color.red(), color.green(), color.blue()

        qtbot.waitUntil(lambda w=wanted: ground() == w, timeout=30_000)
    hub_for(viewer).close()


def test_of_a_quick_move_the_figures_of_the_last_value_stay(docked, qtbot, oracle):
    """A drag asks faster than answers come: the foot must not keep the figures of the first."""
    widget = docked(IMAGE)
    hub = widget.hub
    analysed(widget, qtbot)
    session = oracle(IMAGE)
    levels = np.quantile(session.predict(0).probability, (0.2, 0.5, 0.8)).round(3)
    for cut in levels:
        widget.rows["cut"].spin.setValue(float(cut))
    wait_for(qtbot, lambda: not hub.live.answering and bool(widget.answer.words.text()))
    area = int((session.predict(0, hub.tuning).labels > 0).sum())
    assert hub.tuning.get("cut") == pytest.approx(levels[-1])
    assert widget.answer.words.text().startswith(f"Image: {area:,} px in")
