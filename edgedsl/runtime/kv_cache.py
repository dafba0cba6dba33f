"""Buffers of keys and values in the type that the graph has, and their values in fp32.

numpy knows no bfloat16: its bits, the upper half of an fp32's, are carried in uint16.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from edgedsl.errors import ProviderError

# Numbers of onnx.proto's TensorProto.DataType.
ELEMENT_TYPES = {"float32": 1, "float16": 10, "bfloat16": 16}
ELEMENT_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
_NUMPY_TYPES = {"float32": np.float32, "float16": np.float16}
Values = NDArray[np.float32]


def allocate(shape: Sequence[int], dtype: str, device: str) -> ort.OrtValue:
    """A buffer; ``device`` is cpu or cuda. On a GPU it is zeros: kernels that multiply by a mask must find numbers.

    Raises:
        ProviderError: too little memory.
    """
    try:
        buffer = ort.OrtValue.ortvalue_from_shape_and_type(shape, ELEMENT_TYPES[dtype], device)
        if device != "cpu":
            write(buffer, np.zeros(shape, np.float32), dtype)
    except (MemoryError, RuntimeError) as exc:
        raise ProviderError(
            f"there is no memory for the keys and values of {shape[0]} sequences on the {device}",
            hint="lower '--streams'" if shape[0] > 1 else "export with a smaller [export] context_length",
        ) from exc
    return buffer


def write(buffer: ort.OrtValue, values: Values, dtype: str) -> None:
    """Round fp32 values to the buffer's type and copy them there; what is out of range becomes infinite."""
    with np.errstate(over="ignore"):
        rounded = _to_bfloat16(values) if dtype == "bfloat16" else values.astype(_NUMPY_TYPES[dtype])
    buffer.update_inplace(rounded)  # ONNX Runtime copies bytes, whatever numpy calls them


def read(buffer: ort.OrtValue, dtype: str) -> Values:
    """A copy in fp32."""
    if dtype != "bfloat16":
        copy: Values = buffer.numpy().astype(np.float32)
        return copy
    bits = np.empty(buffer.shape(), np.uint16)
    host = ort.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, ELEMENT_TYPES[dtype])
    host.update_inplace(buffer)
    widened: Values = (bits.astype(np.uint32) << 16).view(np.float32)
    return widened


def _to_bfloat16(values: Values) -> NDArray[np.uint16]:
    """To the nearest, ties to the even one; of finite values."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
