"""Calibration of a fused graph: what a packed projection reads is what each of its parts reads."""

from __future__ import annotations

from collections.abc import Mapping

import torch

_PACKED = {"/self_attn/q_proj/": "/self_attn/qkv_proj/", "/mlp/gate_proj/": "/mlp/gate_up_proj/"}


def packed_moments(moments: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Second moments by node name of the traced graph -> the same, with the names of packed nodes too."""
    found = dict(moments)
    for name, moment in moments.items():
        for part, packed in _PACKED.items():
            if part in name:
                found[name.replace(part, packed)] = moment
    return found
