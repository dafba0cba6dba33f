"""From adapter to bundle: merge, ONNX, quantise, parity, gate."""
