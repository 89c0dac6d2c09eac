"""Bundles that travel without their weights: a large weights file is described by a few kilobytes and made on the spot.

Random weights are as good as any for timing and for agreement between backends, and a gigabyte need not be copied.
Making them needs numpy alone; describing a bundle needs onnx and torch.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import zlib
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vdmrt.bundle import Artifact, Bundle, BundleWriter, Graph, open_bundle

__all__ = ["describe_weights", "load_parameters", "make_weights", "read_layout"]

LAYOUT, CONSTANTS = "weights.json", "constants.bin"
THREADS = 8


def describe_weights(bundle: Bundle, config: Any, parameters: Mapping[str, npt.NDArray[Any]], output: Path) -> None:
    """Write a copy of a bundle in which the weights are only described.

    Parameters become a name, a place and a spread. What is no parameter (tables of positions) is kept byte for byte.

    Args:
        bundle: Of one precision.
        config: The architecture, a dataclass; kept for who wants to make the module again.
        parameters: The module's parameters by name, as the graphs hold them.
        output: The folder to make.
    """
    (precision,) = bundle.manifest.graphs
    graphs = bundle.manifest.graphs[precision]
    weights = next(iter(graphs.values())).weights
    assert weights is not None, "a bundle without a weights file has nothing to describe"
    content = np.memmap(bundle.locate(weights), np.uint8, mode="r")
    inline: dict[str, Any] = {}
    constants = bytearray()
    tensors = _describe_tensors(bundle, graphs.values(), content, parameters, inline, constants)
    lost = set(parameters) - set(inline) - {entry.get("parameter") for entry in tensors}
    assert not lost, f"in no graph under any name: {sorted(lost)}"
    output.mkdir(parents=True)
    shutil.copytree(bundle.path, output, ignore=shutil.ignore_patterns(Path(weights.file).name), dirs_exist_ok=True)
    layout = {
        "file": weights.file,
        "nbytes": weights.nbytes,
        "config": dataclasses.asdict(config),
        "tensors": sorted(tensors, key=lambda entry: entry["offset"]),
        "inline": inline,
    }
    (output / LAYOUT).write_text(json.dumps(layout))
    (output / CONSTANTS).write_bytes(bytes(constants))


def _describe_tensors(
    bundle: Bundle,
    graphs: Iterable[Graph],
    content: npt.NDArray[np.uint8],
    parameters: Mapping[str, npt.NDArray[Any]],
    inline: dict[str, Any],
    constants: bytearray,
) -> list[dict[str, Any]]:
    """Return an entry for each tensor of the weights file; ``inline`` and ``constants`` get the values to keep."""
    known = {_digest(value): name for name, value in parameters.items()}
    tensors: dict[int, dict[str, Any]] = {}
    for graph in graphs:
        for entry in _initializers(bundle.locate(graph.file), inline, known):
            if entry["offset"] in tensors:
                continue
            data = content[entry["offset"] : entry["offset"] + entry["nbytes"]]
            found = data.view(entry["dtype"]).reshape(entry["shape"])
            name = known.get(_digest(found)) or known.get(_digest(found.T))
            if name is None:
                entry["constant"] = len(constants)
                constants += data.tobytes()
            else:
                entry["parameter"], entry["transposed"] = name, _digest(found) not in known
                entry["spread"] = float(parameters[name].astype(np.float32).std())
            tensors[entry["offset"]] = entry
    return list(tensors.values())


def make_weights(source: Path, target: Path, seed: int) -> Bundle:
    """Copy a described bundle and give it weights.

    Args:
        source: What :func:`describe_weights` made.
        target: The bundle to make; a folder that is there is replaced.
        seed: The same seed makes the same bytes.

    Returns:
        The bundle, its manifest naming the new file's SHA-256.
    """
    layout = read_layout(source)
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)
    constants = (source / CONSTANTS).read_bytes()
    content = np.memmap(target / layout["file"], np.uint8, mode="w+", shape=(layout["nbytes"],))

    def fill(entry: Mapping[str, Any]) -> None:
        place = content[entry["offset"] : entry["offset"] + entry["nbytes"]]
        if "constant" in entry:
            kept = constants[entry["constant"] : entry["constant"] + entry["nbytes"]]
            place[:] = np.frombuffer(kept, np.uint8)
            return
        place.view(entry["dtype"])[:] = _normals(entry, seed)

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(fill, layout["tensors"]))
    content.flush()
    return _sign(target, layout["file"])


def read_layout(folder: Path) -> dict[str, Any]:
    """Read what :func:`describe_weights` wrote."""
    layout: dict[str, Any] = json.loads((folder / LAYOUT).read_text(encoding="utf-8"))
    return layout


def load_parameters(folder: Path) -> dict[str, npt.NDArray[Any]]:
    """Return the parameters of a bundle that :func:`make_weights` made, by the module's names and in its shapes."""
    layout = read_layout(folder)
    content = np.memmap(folder / layout["file"], np.uint8, mode="r")
    found: dict[str, npt.NDArray[Any]] = {}
    for entry in layout["tensors"]:
        if "constant" not in entry:
            data = content[entry["offset"] : entry["offset"] + entry["nbytes"]].view(entry["dtype"])
            tensor = data.reshape(entry["shape"])
            found[entry["parameter"]] = tensor.T if entry["transposed"] else tensor
    for name, values in layout["inline"].items():
        found[name] = np.array(values["values"], values["dtype"]).reshape(values["shape"])
    return found


def _normals(entry: Mapping[str, Any], seed: int) -> npt.NDArray[np.float32]:
    key = np.array([seed, zlib.crc32(entry["parameter"].encode())], np.uint64)
    drawn = np.random.Generator(np.random.Philox(key=key)).standard_normal(
        int(np.prod(entry["shape"])), dtype=np.float32
    )
    drawn *= np.float32(entry["spread"])
    return drawn


def _sign(folder: Path, weights: str) -> Bundle:
    """Write the manifest anew with the weights' true length and hash."""
    writer = BundleWriter(folder)
    record = writer.record(weights)
    manifest = open_bundle(folder).manifest

    def signed(graph: Graph) -> Graph:
        return dataclasses.replace(graph, weights=_replaced(graph.weights, record))

    graphs = {
        precision: {stage: signed(graph) for stage, graph in stages.items()}
        for precision, stages in manifest.graphs.items()
    }
    writer.finish(dataclasses.replace(manifest, graphs=graphs))
    return open_bundle(folder)


def _replaced(old: Artifact | None, new: Artifact) -> Artifact | None:
    return new if old is not None and old.file == new.file else old


def _digest(values: npt.NDArray[Any]) -> bytes:
    """Return what tells the values of a tensor from others, whatever its shape: exporters fold and rename."""
    return hashlib.sha256(np.ascontiguousarray(values).view(np.uint8).data).digest()


def _initializers(path: Path, inline: dict[str, Any], known: Mapping[bytes, str]) -> list[dict[str, Any]]:
    """List the initializers that lie in the weights file; note the values of parameters that lie in the graph."""
    import onnx

    found = []
    for tensor in onnx.load(str(path), load_external_data=False).graph.initializer:
        dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)).name
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            where = {item.key: item.value for item in tensor.external_data}
            place = {"offset": int(where["offset"]), "nbytes": int(where["length"])}
            found.append({"name": tensor.name, "dtype": dtype, "shape": list(tensor.dims), **place})
            continue
        values = onnx.numpy_helper.to_array(tensor)
        name = known.get(_digest(values)) if values.ndim else None
        if name is not None:
            inline[name] = {"dtype": dtype, "shape": list(values.shape), "values": values.ravel().tolist()}
    return found
