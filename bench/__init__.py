"""Benchmarks of embstore beside its peers: `python -m bench kernels`, `python -m bench tables`."""
