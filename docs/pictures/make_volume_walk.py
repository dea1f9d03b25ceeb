"""A CT volume of 512 x 512 x 120 from the first click to the restored session, by mouse and keys.

    xvfb-run -a -s "-screen 0 1280x800x24" python docs/pictures/make_volume_walk.py [--work FOLDER]

A real napari on a real X display (xdotool, ImageMagick and openbox are needed) is led through
``docs/volume_walk.md``: opened, run, scrolled, cancelled half-way, gone on with, threshold moved,
painted, undone, exported, killed, restored. Every action is a mouse or key event; the pictures of
the page are written beside this script. The exported mask is compared with what the command line
predicts, and its place with nibabel and SimpleITK.
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nibabel as nib
import numpy as np
from PIL import Image
from scipy import ndimage
from walk_hands import Napari, Point, between, hand, need_tools, window_manager

HERE = Path(__file__).parent
SAMPLE = HERE.parents[1] / "sample_data" / "ct_phantom.nii.gz"
MODEL = "ct_organs_smooth_unet"
SHAPE_ZYX = (120, 512, 512)
TURN_DEGREES = (6.0, -4.0, 9.0)
"""The oblique stand of the scan, about the x, y and z axes."""
CENTRE_RAS_MM = (-12.0, 18.0, -140.0)
NOISE_HU, SEED = 9.0, 3
LABELS = "segment.hub.results.labels"
BUSY = "segment.hub.live.state.busy"
THRESHOLD = 'tune.rows["threshold"].slider'
FIGURES = "segment.hub.tuning.get('threshold'), segment.hub.results.edits.count"
DONE = "pulse_for(segment.hub.live).done"
SEEN = 66
"""The slice of the pictures."""
CHECKSUM = f"__import__('zlib').crc32(__import__('numpy').array({LABELS}.data).tobytes())"


# --- the scan -------------------------------------------------------------------------------------


def write_scan(path: Path) -> None:
    """The drawn CT sample on a grid of the size of a real CT, oblique and anisotropic."""
    small = nib.load(SAMPLE)
    hu = np.asarray(small.dataobj, dtype=np.float32)[::-1, ::-1].transpose(2, 1, 0)  # S, P, L
    depth, height, width = hu.shape
    hu = np.pad(hu, ((0, 0), ((width - height) // 2,) * 2, (0, 0)), mode="edge")
    rng, zoom = np.random.default_rng(SEED), SHAPE_ZYX[1] / width
    large = np.empty(SHAPE_ZYX, np.int16)
    for k, z in enumerate(np.linspace(0, depth - 1, SHAPE_ZYX[0])):
        low = min(int(z), depth - 2)
        plane = (1 - (z - low)) * hu[low] + (z - low) * hu[low + 1]
        plane = ndimage.zoom(plane, zoom, order=1, grid_mode=True, mode="nearest")
        noise = ndimage.gaussian_filter(rng.standard_normal(plane.shape), 0.8)
        plane += noise / noise.std() * NOISE_HU * (plane > -500)
        large[k] = np.clip(np.rint(plane), -1024, 3000)
    spacing = np.array([3.0 / zoom, 3.0 / zoom, 1.2])
    affine = np.eye(4)
    affine[:3, :3] = turned() @ np.diag(spacing * (-1, -1, 1))
    middle = (np.array(SHAPE_ZYX[::-1]) - 1) / 2
    affine[:3, 3] = np.array(CENTRE_RAS_MM) - affine[:3, :3] @ middle
    image = nib.Nifti1Image(large.transpose(2, 1, 0), affine)
    image.set_qform(affine, 1)
    image.set_sform(affine, 1)
    image.header.set_xyzt_units("mm")
    nib.save(image, path)


def turned() -> np.ndarray:
    """A rotation about all three axes."""
    a, b, c = np.radians(TURN_DEGREES)
    about_x = [[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]]
    about_y = [[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]]
    about_z = [[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]]
    return np.asarray(about_z) @ np.asarray(about_y) @ np.asarray(about_x)


# --- the walk -------------------------------------------------------------------------------------


class Walk:
    """The steps of the page, in its order."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self.scan, self.mask = work / "ct_512.nii.gz", work / "ct_512_mask.nii.gz"
        self.session = work / "ct_512.attnseg"
        self.napari: Napari

    def start(self) -> None:
        """napari, as large as the screen."""
        self.napari = Napari(self.work)
        x, y, width, _ = self.napari.ask("box(window)")
        self.napari.click((x + width // 2, y - 9), times=2)  # its title bar
        time.sleep(1.0)

    def picture(self, name: str, part: str | None = None) -> None:
        """A picture of the page, with few colours."""
        self.keep(self.look(name, part), name)

    @staticmethod
    def keep(raw: Path, name: str) -> None:
        """A shot becomes a picture of the page."""
        path = HERE / f"volume_{name}.png"
        image = Image.open(raw).convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE)
        image.save(path, optimize=True)
        print(f"{path.name}: {path.stat().st_size // 1000} kB", flush=True)

    def name_file(self, path: Path, button: str) -> None:
        """A path into the file dialog that is open, and its button."""
        self.napari.key("ctrl+a")
        self.napari.type(str(path))
        self.napari.key("Tab")  # the list of names like it goes away
        self.look(f"dialog_{path.name}")
        for _ in range(2):  # a first click may only close that list
            with contextlib.suppress(LookupError):
                self.napari.click(f"in_window('QPushButton', {button!r})")

    def look(self, name: str, part: str | None = None) -> Path:
        """A shot to judge."""
        path = self.work / f"{name}.png"
        self.napari.shot(path, part)
        return path

    def dock(self, name: str) -> None:
        """A dock through the Plugins menu."""
        self.napari.menu("Plugins", "Attention segmentation", name)
        self.napari.until(f"{name.lower()}.isVisible()", f"the dock {name}")
        time.sleep(0.5)

    def idle(self, seconds: float = 600.0) -> None:
        """Wait for the end of a run."""
        time.sleep(0.3)
        self.napari.until(f"not {BUSY}", "the end of the run", seconds)
        time.sleep(1.0)

    def open(self) -> None:
        """File > Open, the path typed, our reader chosen; then the dock, which tells the cost."""
        napari = self.napari
        napari.menu("File", "Open File(s)")
        napari.until("any('file' in t.lower() for t in dialogs())", "the file dialog")
        self.name_file(self.scan, "Open")
        napari.until("'Choose reader' in dialogs()", "the question which reader")
        time.sleep(0.5)
        self.picture("reader")
        napari.click("in_window('QPushButton', 'OK')")
        napari.until("len(viewer.layers) == 1", "the scan")
        self.dock("Segment")
        napari.until("segment.cost.words.text()", "the forecast")
        if napari.ask("segment.hub.checkpoint") != MODEL:
            napari.choose("segment.choose.model", MODEL)
        print(napari.ask("segment.cost.words.text()"), napari.ask("segment.doubts.words.text()"))
        self.picture("opened")

    def drag_to(self, z: int) -> None:
        """Drag the handle of napari's own slider about to slice ``z``."""
        x, y, width, height = self.napari.ask(
            "box(window._qt_viewer.dims.slider_widgets[0].slider)"
        )
        last = SHAPE_ZYX[0] - 1

        def at(k: int) -> Point:
            return round(x + 12 + (width - 24) * k / last), y + height // 2

        now = self.napari.ask("viewer.dims.current_step[0]")
        self.napari.drag(between(at(now), at(z), 8), 0.03)

    def go_to(self, z: int) -> None:
        """The rest of the way to slice ``z`` by the arrow keys."""
        self.napari.click("middle(window._qt_viewer.canvas.native)")  # the keys are for the canvas
        for _ in range(12):
            off = z - self.napari.ask("viewer.dims.current_step[0]")
            if not off:
                return
            for _ in range(abs(off)):
                hand("key", "Right" if off > 0 else "Left")
            time.sleep(0.3)

    def run_and_cancel(self) -> None:
        """Run, scroll while it fills, Cancel half-way, go on."""
        napari = self.napari
        napari.click("middle(segment.run)")
        napari.until(f"{BUSY} and 0 < {DONE} < 60", "the first slices")
        self.drag_to(SEEN)
        cancel = napari.ask("middle(segment.run)")
        napari.until(f"{DONE} >= 40", "a third of the slices")
        raw = self.look("filling")
        napari.click(tuple(cancel))
        pressed = time.monotonic()
        self.idle()
        self.keep(raw, "filling")
        words = napari.ask("segment.status.text()")
        print(f"{words} ({time.monotonic() - pressed:.1f} s with waiting)")
        assert words.startswith("Cancelled: "), words
        self.picture("cancelled", "box(segment)")
        napari.click("middle(segment.run)")
        self.idle()
        words = napari.ask("segment.status.text()")
        print(words)
        assert "known before" in words, words
        self.go_to(SEEN)
        self.look("done")

    def tune(self) -> None:
        """The threshold by mouse, held still in the middle of the drag."""
        napari = self.napari
        self.dock("Tune")
        napari.until("tune.curves is not None", "the curves")
        time.sleep(0.5)
        trained = napari.ask(FIGURES)[0]
        x, y = napari.ask(f"handle({THRESHOLD})")
        hand("mousemove", x, y)
        hand("mousedown", 1)
        for point in between((x, y), (x - 90, y), 18):
            hand("mousemove", *point)
            time.sleep(0.04)
        napari.until("not segment.hub.live.answering", "the live answer")
        time.sleep(1.0)
        assert not napari.ask(BUSY), "the volume waits until the mouse is let go"
        self.picture("threshold")
        hand("mouseup", 1)
        self.idle()
        print(f"threshold {trained} -> {napari.ask(FIGURES)[0]}")
        napari.click("in_title(tune)")  # its cross: room for the Segment dock
        time.sleep(0.8)

    def paint(self) -> None:
        """Ctrl+Z takes strokes and the threshold back, Ctrl+Shift+Z brings them again."""
        napari = self.napari
        before = napari.ask(FIGURES)
        napari.click("in_controls('paint brush')")
        self.stroke([(150 + 2 * k, 300 + k) for k in range(30)])
        painted = napari.ask(FIGURES)
        assert painted[1] > 500, painted
        self.picture("painted")
        napari.key("ctrl+z")
        assert napari.ask(FIGURES) == before, "the stroke is taken back"
        napari.key("ctrl+z")
        time.sleep(1.0)
        assert napari.ask(FIGURES)[0] != before[0], "then the drag of the threshold, whole"
        print(napari.ask("segment.status.text()"), napari.ask(FIGURES))
        napari.key("ctrl+shift+z")
        time.sleep(1.0)
        napari.key("ctrl+shift+z")
        time.sleep(0.5)
        assert napari.ask(FIGURES) == painted, "both are there again"

    def stroke(self, pixels: list[tuple[int, int]]) -> None:
        """The mouse over pixels (y, x) of the slice that is seen."""
        z = self.napari.ask("viewer.dims.current_step[0]")
        points = [tuple(self.napari.ask(f"pixel({LABELS}, ({z}, {y}, {x}))")) for y, x in pixels]
        self.napari.drag(points, 0.03)  # type: ignore[arg-type]
        time.sleep(0.8)

    def export(self) -> None:
        """The file dialog, then the tick."""
        napari = self.napari
        self.scroll_to("segment.after.export")
        napari.click("middle(segment.after.export)")
        napari.until("'Export the mask' in dialogs()", "the export dialog")
        self.name_file(self.mask, "Save")
        napari.until(
            "segment.after.export.isEnabled() and '✓' in segment.after.verdict.text()", "✓"
        )
        time.sleep(1.0)
        print(napari.ask("segment.after.verdict.text()"))
        self.picture("tick", "box(segment)")

    def scroll_to(self, widget: str) -> None:
        """Turn the wheel over the dock until ``widget`` is seen whole."""
        x, y, width, _ = self.napari.ask("box(segment)")
        self.napari.move((x + width // 2, y + 60))
        for _ in range(40):
            if self.napari.ask(f"{widget}.visibleRegion().boundingRect() == {widget}.rect()"):
                return
            hand("click", 5)
            time.sleep(0.1)
        raise TimeoutError(f"{widget} cannot be scrolled to")

    def save_session(self) -> None:
        """Everything in one file."""
        napari = self.napari
        self.scroll_to("segment.session.save")
        napari.click("middle(segment.session.save)")
        napari.until("'Save the session' in dialogs()", "the dialog for the session")
        self.name_file(self.session, "Save")
        napari.until("segment.status.text().startswith('Saved ')", "the session")

    def crash(self) -> None:
        """One more stroke, then the process is killed; the next window offers all of it."""
        napari = self.napari
        napari.click("in_controls('paint brush')")
        self.stroke([(330, 120 + 2 * k) for k in range(30)])
        time.sleep(1.0)
        left = napari.ask(FIGURES), napari.ask(CHECKSUM)
        napari.kill()
        self.start()
        napari = self.napari
        self.dock("Segment")
        napari.until("segment.restore.isVisible()", "the offer to restore")
        time.sleep(1.0)
        self.picture("restore")
        napari.click("middle(segment.restore.bring)")
        napari.until(
            "segment.hub.results.edits is not None and not segment.restore.isVisible()", "it"
        )
        self.idle()
        assert (napari.ask(FIGURES), napari.ask(CHECKSUM)) == left, "nothing is lost"
        self.look("restored")
        napari.kill()

    def tomorrow(self, saved: list[float]) -> None:
        """The session file through File > Open; ``saved``: threshold and painted pixels."""
        self.start()
        napari = self.napari
        napari.menu("File", "Open File(s)")
        napari.until("any('file' in t.lower() for t in dialogs())", "the file dialog")
        self.name_file(self.session, "Open")
        napari.until("segment.hub.results.edits is not None", "the session")
        self.idle()
        self.look("tomorrow")
        print(f"session: {napari.ask('segment.errors.message')!r}, {napari.ask(FIGURES)}")
        assert napari.ask(FIGURES) == saved
        napari.kill()


# --- the mask, asked of others --------------------------------------------------------------------


def check(walk: Walk, threshold: float, painted: int, z: int) -> None:
    """The exported mask lies where the scan lies, and is what the command line predicts."""
    import SimpleITK as sitk

    scan, mask = nib.load(walk.scan), nib.load(walk.mask)
    assert np.array_equal(scan.affine, mask.affine)
    assert scan.shape == mask.shape
    images = [sitk.ReadImage(str(path)) for path in (walk.scan, walk.mask)]
    for corner in np.ndindex(2, 2, 2):
        voxel = [int(c * (n - 1)) for c, n in zip(corner, scan.shape, strict=True)]
        here, there = (image.TransformIndexToPhysicalPoint(voxel) for image in images)
        assert here == there, (voxel, here, there)
    command = [sys.executable, "-m", "napari_attnseg", "predict", MODEL, str(walk.scan)]
    out = walk.work / "command_line"
    subprocess.run([*command, "--out", str(out), "--threshold", repr(threshold)], check=True)
    other = np.asarray(nib.load(out / "ct_512_mask.nii.gz").dataobj)
    differs = np.argwhere(other != np.asarray(mask.dataobj))
    assert set(differs[:, 2]) <= {z}
    assert 0 < len(differs) <= painted
    print(f"the mask is the command line's but for {len(differs)} of {painted} painted pixels")


def main() -> None:
    """The whole walk."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, help="an empty folder (default: a temporary one)")
    wish = parser.parse_args()
    need_tools()
    with tempfile.TemporaryDirectory() as folder, window_manager():
        walk = Walk(wish.work or Path(folder))
        walk.work.mkdir(parents=True, exist_ok=True)
        write_scan(walk.scan)
        walk.start()
        walk.open()
        walk.run_and_cancel()
        walk.tune()
        walk.paint()
        walk.export()
        threshold, painted = walk.napari.ask(FIGURES)
        z = walk.napari.ask("viewer.dims.current_step[0]")
        walk.save_session()
        walk.crash()
        walk.tomorrow([threshold, painted])
        check(walk, threshold, painted, z)


if __name__ == "__main__":
    main()
