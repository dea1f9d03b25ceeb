"""All experiments by name."""

from __future__ import annotations

from collections.abc import Callable

from napari_attnseg.engine.experiment.plan import Plan, Scale
from napari_attnseg.engine.experiment.plan_joint import joint_attention
from napari_attnseg.engine.experiment.plan_pam import pam_unet
from napari_attnseg.engine.experiment.plan_refinement import refinement
from napari_attnseg.engine.experiment.plan_smooth import smooth_attention
from napari_attnseg.errors import InputError
from napari_attnseg.settings import Preprocessing


def make_plan(name: str, scale: Scale, base: Preprocessing | None = None) -> Plan:
    """The plan of ``smooth-attention``, ``joint-attention`` or ``pam-unet``.

    ``base``: preprocessing that suits the data (see ``suited``), instead of the recipe's.
    Raises ``InputError`` for unknown names, settings and empty or repeated seeds.
    """
    if name not in EXPERIMENTS:
        raise InputError(f"got experiment {name}, expected one of {', '.join(EXPERIMENTS)}")
    if not scale.seeds or len(set(scale.seeds)) != len(scale.seeds):
        raise InputError(f"got seeds {scale.seeds}, expected different ones, as in 0,1,2")
    return EXPERIMENTS[name](scale, base)


EXPERIMENTS: dict[str, Callable[[Scale, Preprocessing | None], Plan]] = {
    "smooth-attention": smooth_attention,
    "joint-attention": joint_attention,
    "pam-unet": pam_unet,
    "refinement": refinement,
}
