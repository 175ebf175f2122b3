"""The LiteRT backend: lowers programs to ``.tflite`` files, edits their weights, reads and runs them."""
