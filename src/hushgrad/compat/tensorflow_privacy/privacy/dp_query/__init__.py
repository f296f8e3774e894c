"""Differentially private queries over records: TensorFlow Privacy's, on JAX.

McMahan and Andrew 2018 (arXiv 1812.06210). A record is any pytree of arrays. Records may
be clipped and summed under `jit`; a noised result is drawn on the host, outside of it,
with a key from the operating system's entropy for every call.
"""
