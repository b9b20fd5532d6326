"""The engines that `peers.py` measures, and how it measures them: a file an engine, a file an idea."""
