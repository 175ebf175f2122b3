"""The quantized program: the captured graph with Q/DQ nodes that carry a recipe's scales."""
