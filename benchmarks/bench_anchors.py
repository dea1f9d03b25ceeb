"""What strokes buy when they are told of all that looks alike and carried along the affinity.

    python benchmarks/bench_anchors.py NUCLEI [--every 1] [--erased] [--write]

NUCLEI holds ``images`` and ``labels``; test images are the last fifth in byte order. One stroke: in
the largest connected error of the current answer (8 neighbours), at its innermost pixel (distance
transform), a disc of radius 3 with the true class, cut where the truth is another class. Every
form gets strokes for its own answer; all begin with the refined answer of the model. Only images
on which that is below 0.90 Dice count.

Forms: *strokes as built* (``refinement.likeness.adapt``, then ``refinement.strokes.carry``);
*uniform affinity* (the same with all weights of the affinity 1); *alike only* (``adapt`` alone);
*carried only* (``carry`` alone: needs no image); *held in every iteration* (re-injected in each
iteration of the refinement, nothing more); *only painted* (only the painted pixels change);
*random walker* (scikit-image, beta 130, on the image as the model sees it; seeds: all strokes, and
the pixels where the model's probability is above ``--sure`` or below 1 - ``--sure``, strokes
first).

Every form is compared image by image with strokes as built: strokes to 0.90 (11: never), how often
either needs fewer, and the mean difference with its 95 % interval (bootstrap over images).

``--erased``: a weaker coarse model: a third of the components of the coarse mask (and 4 pixels
around) is set to sure background before the guidance network sees it.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from results import device, write_section
from scipy import ndimage
from skimage.segmentation import random_walker

from napari_attnseg.engine.evaluate import read_pair
from napari_attnseg.engine.refining import guided, refined_model
from napari_attnseg.engine.session import Session
from napari_attnseg.models.refined import LIMIT
from napari_attnseg.refinement import Anchors, Refinement
from napari_attnseg.refinement.likeness import Look, adapt, look
from napari_attnseg.refinement.strokes import SHORT, carry

GOAL = 0.90
COUNTS = (0, 1, 2, 3, 5, 10)
NEAR = np.ones((3, 3))


@dataclass(frozen=True, eq=False)
class Scene:
    """One image: what the refinement starts from, its answer, and the truth (Y, X)."""

    image: np.ndarray
    looks: Look
    start: torch.Tensor
    affinity: torch.Tensor
    attention: torch.Tensor | None
    refinement: Refinement
    answer: torch.Tensor
    truth: np.ndarray

    @property
    def mask(self) -> np.ndarray:
        return (self.answer[0, 0] > 0).numpy()


Form = Callable[[Scene, np.ndarray], np.ndarray]


def dice(mask: np.ndarray, truth: np.ndarray) -> float:
    whole = np.count_nonzero(mask) + np.count_nonzero(truth)
    return 2 * np.count_nonzero(mask & truth) / whole if whole else 1.0


def next_stroke(
    mask: np.ndarray, truth: np.ndarray, radius: int = 3
) -> tuple[int, np.ndarray] | None:
    """Label (2 foreground, 1 background) and pixels of the next stroke; ``None`` without error."""
    best, label, part = 0, 0, mask
    for value, wrong in ((2, truth & ~mask), (1, mask & ~truth)):
        components, n = ndimage.label(wrong, NEAR)
        sizes = np.bincount(components.ravel(), minlength=n + 1)[1:]
        if n and sizes.max() > best:
            best, label, part = int(sizes.max()), value, components == sizes.argmax() + 1
    if not best:
        return None
    depth = ndimage.distance_transform_edt(np.pad(part, 1))[1:-1, 1:-1]
    y, x = np.unravel_index(depth.argmax(), depth.shape)
    rows, cols = np.ogrid[: mask.shape[0], : mask.shape[1]]
    disc = (rows - y) ** 2 + (cols - x) ** 2 <= radius**2
    return label, disc & (truth == (label == 2))


def anchors(strokes: np.ndarray) -> Anchors:
    value = torch.from_numpy(np.where(strokes == 2, LIMIT, -LIMIT).astype(np.float32))
    return Anchors(
        value[None, None], torch.from_numpy((strokes > 0).astype(np.float32))[None, None]
    )


def built(s: Scene, strokes: np.ndarray) -> np.ndarray:
    anchors_ = anchors(strokes)
    told = adapt(s.answer, s.looks, anchors_)
    out = carry(s.start, s.affinity, s.attention, s.refinement, anchors_, answer=told, walk=SHORT)
    return (out[0, 0] > 0).numpy()


def uniform(s: Scene, strokes: np.ndarray) -> np.ndarray:
    return built(replace(s, affinity=torch.ones_like(s.affinity)), strokes)


def alike(s: Scene, strokes: np.ndarray) -> np.ndarray:
    anchors_ = anchors(strokes)
    return (anchors_.hold(adapt(s.answer, s.looks, anchors_))[0, 0] > 0).numpy()


def carried(s: Scene, strokes: np.ndarray) -> np.ndarray:
    anchors_ = anchors(strokes)
    out = carry(s.start, s.affinity, s.attention, s.refinement, anchors_, answer=s.answer)
    return (out[0, 0] > 0).numpy()


def held(s: Scene, strokes: np.ndarray) -> np.ndarray:
    out = s.refinement.refine(s.start, s.affinity, s.attention, anchors(strokes))
    return (out[0, 0] > 0).numpy()


def painted(s: Scene, strokes: np.ndarray) -> np.ndarray:
    return np.where(strokes > 0, strokes == 2, s.mask)


def walker(sure: float) -> Form:
    def walk(s: Scene, strokes: np.ndarray) -> np.ndarray:
        p = torch.sigmoid(s.answer[0, 0]).numpy()
        seeds = np.where(p > sure, 2, np.where(p < 1 - sure, 1, 0))
        seeds = np.where(strokes > 0, strokes, seeds)
        if len(np.unique(seeds[seeds > 0])) < 2 or seeds.all():
            return np.where(seeds > 0, seeds == 2, s.mask)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = random_walker(s.image, seeds, beta=130, mode="cg_j", tol=1e-3)
        return np.where(found > 0, found == 2, s.mask)

    return walk


def simulate(s: Scene, form: Form, most: int = 10) -> tuple[list[float], float]:
    """Dice after 0 .. ``most`` strokes, and seconds per stroke."""
    mask, strokes, spent = s.mask, np.zeros(s.truth.shape, np.uint8), 0.0
    found = [dice(mask, s.truth)]
    for _ in range(most):
        stroke = next_stroke(mask, s.truth)
        if stroke is not None:
            strokes[stroke[1]] = stroke[0]
            began = time.perf_counter()
            mask = form(s, strokes)
            spent += time.perf_counter() - began
        found.append(dice(mask, s.truth))
    return found, spent / most


def erase(start: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Coarse logits with a third of the mask's components turned to sure background."""
    components, n = ndimage.label((start[0, 0] > 0).numpy())
    gone = 1 + rng.permutation(n)[: -(-n // 3)]
    others = (components > 0) & ~np.isin(components, gone)
    lost = ndimage.binary_dilation(np.isin(components, gone), iterations=4) & ~others
    out = start.clone()
    out[0, 0][torch.from_numpy(lost)] = -LIMIT
    return out


def scenes(checkpoint: str, folder: Path, every: int, erased: bool) -> Iterator[Scene]:
    """Test images on which the refined answer is below the goal."""
    names = sorted((p.name for p in (folder / "labels").glob("*.png")), key=str.encode)
    session = Session(checkpoint, device="cpu")
    model = refined_model(session.model)
    for number, name in enumerate(names[len(names) - len(names) // 5 :: 1][::every]):
        volume, truth = read_pair(folder / "images" / name, folder / "labels" / name)
        session.set_image(volume)
        given = guided(session.pipeline, 0, session._values(None))
        x = session.pipeline._prepare(0)
        start, affinity, attention = given.start, given.affinity, given.attention
        if erased:
            start = erase(start, np.random.default_rng(number))
            affinity, attention = model.guidance(x, start / LIMIT)
        answer = model.refinement.refine(start, affinity, attention)
        scene = Scene(
            x[0, 0].numpy(),
            look(x),
            start,
            affinity,
            attention,
            model.refinement,
            answer,
            truth[0] > 0,
        )
        if dice(scene.mask, scene.truth) < GOAL:
            yield scene
        model.forget()


def strokes_needed(found: np.ndarray) -> np.ndarray:
    """Strokes until Dice (images, strokes + 1) reaches the goal, per image; 11: never."""
    reached = (found >= GOAL).any(1)
    return np.where(reached, (found >= GOAL).argmax(1), 11)


def row(name: str, found: np.ndarray, seconds: float) -> str:
    """One line of the table from Dice (images, strokes + 1)."""
    needed = strokes_needed(found)
    median = float(np.median(needed))
    word = "> 10" if median > 10 else f"{median:g}"
    figures = " | ".join(f"{found[:, n].mean():.4f}" for n in COUNTS)
    share = f"{np.count_nonzero(needed < 11)} of {len(found)}"
    spoilt = np.count_nonzero(found[:, -1] < found[:, 0])
    return (
        f"| {name} | {figures} | {share} | {word} | {needed.mean():.2f} | {spoilt} | "
        f"{1e3 * seconds:.0f} |"
    )


def compared(name: str, ours: np.ndarray, other: np.ndarray) -> str:
    """One line of the comparison, image by image, from Dice (images, strokes + 1) of two forms."""
    a, b = strokes_needed(ours), strokes_needed(other)
    gain, last = b - a, ours[:, -1] - other[:, -1]
    rng = np.random.default_rng(0)
    picks = rng.integers(0, len(a), (10_000, len(a)))
    (low, high), (dice_low, dice_high) = (
        np.percentile(v[picks].mean(1), (2.5, 97.5)) for v in (gain, last)
    )
    return (
        f"| {name} | {np.count_nonzero(gain > 0)} / {np.count_nonzero(gain < 0)} | "
        f"{gain.mean():.2f} ({low:.2f} to {high:.2f}) | "
        f"{np.count_nonzero(last > 0)} / {np.count_nonzero(last < 0)} | "
        f"{last.mean():+.4f} ({dice_low:+.4f} to {dice_high:+.4f}) |"
    )


def measure(checkpoint: str, given: argparse.Namespace) -> str:
    forms: dict[str, Form] = {
        "strokes as built": built,
        "uniform affinity": uniform,
        "alike only": alike,
        "carried only": carried,
        "held in every iteration": held,
        "only painted": painted,
        "random walker": walker(given.sure),
    }
    taken: dict[str, list[tuple[list[float], float]]] = {name: [] for name in forms}
    for scene in scenes(checkpoint, given.folder, given.every, given.erased):
        for name, form in forms.items():
            taken[name].append(simulate(scene, form))
    counts = " | ".join(str(n) for n in COUNTS)
    lines = [
        f"| {checkpoint} | {counts} | reach {GOAL} in 10 | median | mean (11: never) | "
        "images below their start after 10 | ms |",
        "| :-- |" + " --: |" * 11,
    ]
    found = {name: np.array([v for v, _ in pairs]) for name, pairs in taken.items()}
    for name, pairs in taken.items():
        lines.append(row(name, found[name], float(np.mean([spent for _, spent in pairs]))))
    lines += [
        "",
        f"| {checkpoint}, as built against | images that need fewer / more | strokes saved | "
        "images better / worse after 10 | Dice after 10 |",
        "| :-- |" + " --: |" * 4,
    ]
    ours, *others = found
    lines += [compared(name, found[ours], found[name]) for name in others]
    return "\n".join(lines)


def main() -> None:
    """Read the options from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--checkpoints", nargs="+", default=["nuclei_cspn", "nuclei_dyspn"])
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--erased", action="store_true")
    parser.add_argument("--sure", type=float, default=0.9)
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    with torch.no_grad():
        tables = [measure(name, given) for name in given.checkpoints]
    title = "strokes as anchors" + (", a third of the nuclei erased" if given.erased else "")
    text = f"{device()}; every {given.every}. image of the test part, one thread.\n\n"
    text += "\n\n".join(tables)
    print(text)
    if given.write:
        write_section(title, text)


if __name__ == "__main__":
    main()
