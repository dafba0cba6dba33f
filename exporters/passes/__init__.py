"""Graph passes: each changes an onnx_ir.Model in place.

onnx_ir rather than onnx.ModelProto: weights stay memory-mapped files until a pass changes one, a value knows its
producer and its uses, and a graph of any size is saved.
"""
