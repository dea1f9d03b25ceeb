"""Segmentation models, one per file; importing the package registers them."""

from napari_attnseg.models import anu_net as _anu_net  # noqa: F401 (registers)
from napari_attnseg.models import attention_unet as _attention_unet  # noqa: F401 (registers)
from napari_attnseg.models import ca_net as _ca_net  # noqa: F401 (registers)
from napari_attnseg.models import cara_net as _cara_net  # noqa: F401 (registers)
from napari_attnseg.models import dda_net as _dda_net  # noqa: F401 (registers)
from napari_attnseg.models import deeplabv3plus as _deeplabv3plus  # noqa: F401 (registers)
from napari_attnseg.models import dense_unet as _dense_unet  # noqa: F401 (registers)
from napari_attnseg.models import fcn8s as _fcn8s  # noqa: F401 (registers)
from napari_attnseg.models import hrnet as _hrnet  # noqa: F401 (registers)
from napari_attnseg.models import m3_net as _m3_net  # noqa: F401 (registers)
from napari_attnseg.models import mobile_unet as _mobile_unet  # noqa: F401 (registers)
from napari_attnseg.models import nonlocal_unet as _nonlocal_unet  # noqa: F401 (registers)
from napari_attnseg.models import pam_unet as _pam_unet  # noqa: F401 (registers)
from napari_attnseg.models import placed_unet as _placed_unet  # noqa: F401 (registers)
from napari_attnseg.models import refined as _refined  # noqa: F401 (registers)
from napari_attnseg.models import resunet as _resunet  # noqa: F401 (registers)
from napari_attnseg.models import sa_net as _sa_net  # noqa: F401 (registers)
from napari_attnseg.models import smooth_unet as _smooth_unet  # noqa: F401 (registers)
from napari_attnseg.models import swin_unet as _swin_unet  # noqa: F401 (registers)
from napari_attnseg.models import swin_unetr as _swin_unetr  # noqa: F401 (registers)
from napari_attnseg.models import trans_unet as _trans_unet  # noqa: F401 (registers)
from napari_attnseg.models import unet as _unet  # noqa: F401 (registers)
from napari_attnseg.models import unet_resnet50 as _unet_resnet50  # noqa: F401 (registers)
from napari_attnseg.models import unet_transformer as _unet_transformer  # noqa: F401 (registers)
from napari_attnseg.models import unetr as _unetr  # noqa: F401 (registers)
from napari_attnseg.models.base import (
    Encoded,
    ModelSpec,
    SegmentationModel,
    build,
    create_model,
    list_models,
    register_model,
)

__all__ = [
    "Encoded",
    "ModelSpec",
    "SegmentationModel",
    "build",
    "create_model",
    "list_models",
    "register_model",
]
