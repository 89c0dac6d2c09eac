"""Kernels that TensorRT for RTX makes of a graph, without a GPU."""

from __future__ import annotations

from pathlib import Path

from vdmrt.engines import read_layers
from vdmrt.engines.tensorrt.layers import Layer
from vdmrt.engines.tensorrt.rtx.build_log import inspection_of
from vdmrt.hosts.tensorrt.rtx import open_tensorrt_rtx


def compile_kernels(path: Path) -> list[Layer]:
    """Compile a graph for no target; waits between streams are left out."""
    rtx = open_tensorrt_rtx()
    builder = rtx.module.Builder(rtx.log.logger)
    network = builder.create_network(0)
    parser = rtx.module.OnnxParser(network, rtx.log.logger)
    assert parser.parse_from_file(str(path)), rtx.log.take_errors()
    config = builder.create_builder_config()
    config.profiling_verbosity = rtx.module.ProfilingVerbosity.DETAILED
    with rtx.log.collect_layers() as lines:
        assert builder.build_serialized_network(network, config) is not None, rtx.log.take_errors()
    return [layer for layer in read_layers(inspection_of(lines)) if not layer.is_idle]
