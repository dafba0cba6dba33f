"""The run wing: token ids in, programs out. Imports nothing of torch, transformers or peft."""

import os

# ONNX Runtime reads this when it is imported, which every module of this package may be the first to do; its own
# opt-out call comes after the first event (its docs/Privacy.md).
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
