"""Figures as the papers print them, to stand beside measured ones. Nothing is computed from them.

The papers' data, sizes, epochs and (for Smooth Attention) metrics differ from a re-run's, so only
orderings can be compared.
"""

from __future__ import annotations

SMOOTH_IOU: dict[str, tuple[float, ...]] = {
    "CUB-200-2011": (
        *(0.7933, 0.8028, 0.7997, 0.7894, 0.7963),
        *(0.7949, 0.7952, 0.8003, 0.7994, 0.7909),
    ),
    "Large-Scale Fish": (
        *(0.9344, 0.9364, 0.9309, 0.9320, 0.9355),
        *(0.9283, 0.9247, 0.9290, 0.9336, 0.9363),
    ),
    "Fire": (
        *(0.8484, 0.8512, 0.8488, 0.8518, 0.8501),
        *(0.8507, 0.8498, 0.8480, 0.8497, 0.8504),
    ),
    "Kvasir-Instrument": (
        *(0.9105, 0.9248, 0.9223, 0.9071, 0.9125),
        *(0.9054, 0.9052, 0.9093, 0.9091, 0.9108),
    ),
    "Flood": (
        *(0.8746, 0.8694, 0.8765, 0.8772, 0.8374),
        *(0.8728, 0.8744, 0.8674, 0.8696, 0.8720),
    ),
}
"""Smooth Attention, Tables 1 to 5: test IoU at the thresholds 0.1 to 0.9 and 2.0."""

JOINT_ISIC: dict[str, dict[str, float]] = {
    "DenseUNet": {"dice": 0.8363, "precision": 0.9335, "recall": 0.8028, "accuracy": 0.9300},
    "DenseUNet-SA": {"dice": 0.8408, "precision": 0.9131, "recall": 0.8304, "accuracy": 0.9321},
    "DenseUNet-PWA": {"dice": 0.8396, "precision": 0.9006, "recall": 0.8377, "accuracy": 0.9322},
    "DenseUNet-JA": {"dice": 0.8500, "precision": 0.9187, "recall": 0.8358, "accuracy": 0.9338},
}
"""Joint Attention on ISIC-2017."""

PAM_TABLE_1: dict[str, dict[str, float]] = {
    "U-Net (ResNet-50)": {"dice": 0.7802, "miou": 0.6900, "recall": 0.8720, "gmacs": 35.00},
    "DeepLabv3+": {"dice": 0.8234, "miou": 0.7359, "recall": 0.9111, "gmacs": 27.90},
    "Mobile-UNet": {"dice": 0.7104, "miou": 0.6293, "recall": 0.8023, "gmacs": 0.85},
    "FCN-8s": {"dice": 0.7686, "miou": 0.6765, "recall": 0.825, "gmacs": 24.90},
    "HRNet": {"dice": 0.7621, "miou": 0.7285, "recall": 0.9234, "gmacs": 11.70},
    "ResUNet": {"dice": 0.7409, "miou": 0.6445, "recall": 0.7898, "gmacs": 14.82},
    "Attention U-Net": {"dice": 0.8238, "miou": 0.7432, "recall": 0.7695, "gmacs": 35.35},
    "PAM-UNet": {"dice": 0.8287, "miou": 0.7465, "recall": 0.9214, "gmacs": 1.32},
}
"""PAM-UNet, Table I, the LiTS half (liver); the column FLOPS, in 10^9, taken as GMACs."""

PAM_TABLE_2: dict[str, dict[str, float]] = {
    "M encoder": {"dice": 0.7104, "miou": 0.6293, "gmacs": 0.85},
    "M encoder-decoder": {"dice": 0.7589, "miou": 0.7128, "gmacs": 0.72},
    "+ self": {"dice": 0.7832, "miou": 0.7356, "gmacs": 0.98},
    "+ cross": {"dice": 0.8126, "miou": 0.7444, "gmacs": 1.24},
    "+ additive": {"dice": 0.7940, "miou": 0.7434, "gmacs": 1.17},
    "+ PLA": {"dice": 0.8287, "miou": 0.7465, "gmacs": 1.32},
}
"""PAM-UNet, Table II, LiTS."""

REFINEMENT: dict[str, dict[str, float]] = {
    "coarse U-Net": {"iou": 0.69},
    "CSPN": {"iou": 0.77},
    "DySPN": {"iou": 0.48},
}
"""CSPN and DySPN refinement on Oxford-IIIT Pet, validation part; the report calls it mIoU."""
