"""The ONNX backend: lowers programs to ``.onnx`` files, with integer operators where quantized, and runs them."""
