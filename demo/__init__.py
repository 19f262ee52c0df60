"""The demo: real word vectors, compressed, compared and searched. `make demo`, or `python -m demo`."""
