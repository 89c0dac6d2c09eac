"""The run-book of a day with a GPU: prepare, run, collect; README.md beside this file says how.

It is run as ``python benchmarks/gpu_day`` and imported as ``vdmrt.benchmarks.gpu_day``; it is no part of the wheel.
"""
