"""Picture codec: conversion between pictures and latents by the bundle's two codec graphs."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ...bundle import Stage
from ...errors import TensorMismatchError
from ..device.arrays import TensorBlock, checked_array

if TYPE_CHECKING:
    from ...bundle import Manifest
    from .._core import Device
    from ..backends.backend import Backend
    from ..backends.stage_source import StageSource
    from ..backends.stage_sources import StageSources

__all__ = ["PictureCodec"]

Pictures = npt.NDArray[np.uint8]


class PictureCodec:
    """Encoder and decoder between pictures and latents. Thread-safe and read-only."""

    __slots__ = ("_decode", "_encode", "_kind", "_picture_size", "_undo")

    def __init__(self, backend: Backend, sources: StageSources, manifest: Manifest) -> None:
        assert manifest.codec is not None and manifest.picture_size is not None, "the bundle has no codec"
        self._kind: str = manifest.codec
        self._picture_size = manifest.picture_size
        # A separate queue, so that decoding one chunk overlaps denoising the next.
        device = backend.open_device()
        with ExitStack() as undo:
            self._encode = _Stage(backend, device, sources.read(Stage.VAE_ENCODE))
            undo.callback(self._encode.close)
            self._decode = _Stage(backend, device, sources.read(Stage.VAE_DECODE))
            undo.callback(self._decode.close)
            self._undo = undo.pop_all()

    def __repr__(self) -> str:
        return f"PictureCodec({self.kind!r}, picture_size={self.picture_size})"

    @property
    def kind(self) -> str:
        """Codec type: "preview" for the fixed map without a VAE, "vae" for a trained one."""
        return self._kind

    @property
    def picture_size(self) -> tuple[int, int]:
        """Height and width of a pixel frame."""
        return self._picture_size

    def encode(self, pictures: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Encode ``pictures``, uint8 [n, height, width, 3], to latents, float32 [n, c, h, w].

        Raises:
            TensorMismatchError: Dtype or size differs from the codec's.
            RuntimeError: The codec is closed.
        """
        wanted = (*self.picture_size, 3)
        if pictures.dtype != np.uint8 or pictures.ndim != 4 or pictures.shape[1:] != wanted:
            found = f"{pictures.dtype} {list(pictures.shape)}"
            raise TensorMismatchError(
                "pictures",
                f"wanted uint8 [n, {wanted[0]}, {wanted[1]}, 3], found {found}; cut and resize them with "
                "vdmrt.media.fit_pictures(pictures, model.codec.picture_size)",
            )
        planes = pictures.transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1.0
        return self._encode.run(planes)

    def decode(self, latents: npt.NDArray[np.float32]) -> Pictures:
        """Decode ``latents``, float32 [n, c, h, w], to pictures, uint8 [n, height, width, 3].

        Raises:
            TensorMismatchError: Shape or dtype differs from the codec's, or a value is NaN or Inf.
            RuntimeError: The codec is closed.
        """
        shape = self._decode.item_shape
        planes = self._decode.run(checked_array("latents", latents, (None, *shape), "n, c, h, w"))
        levels = np.clip((planes + 1.0) * 127.5, 0.0, 255.0).round().astype(np.uint8)
        return np.ascontiguousarray(levels.transpose(0, 2, 3, 1))

    def close(self) -> None:
        """Free all memory, after waiting for encoding and decoding in other threads. Closing twice is allowed."""
        self._undo.close()


class _Stage:
    """One codec graph: [batch, ...] in, [batch, ...] out, the last batch padded. Thread-safe.

    Attributes:
        item_shape: Shape of one item of the input's batch.
    """

    def __init__(self, backend: Backend, device: Device, stage: StageSource) -> None:
        (source,), (target,) = stage.graph.inputs, stage.graph.outputs
        self.item_shape = source.shape[1:]
        self._lock = threading.Lock()
        self._closed = False
        with ExitStack() as undo:
            program = backend.load(stage)
            undo.callback(program.close)
            self._tensors = TensorBlock(device, (source, target))
            undo.callback(self._tensors.close)
            nbytes = program.scratch_nbytes
            scratch = device.allocate(nbytes) if nbytes else None
            if scratch is not None:
                undo.callback(scratch.close)
            address = scratch.address if scratch is not None else 0
            self._call = program.bind(device, self._tensors.addresses(), address)
            undo.callback(self._call.close)
            self._undo = undo.pop_all()
        self._roles = source.role, target.role

    def run(self, items: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        with self._lock:
            if self._closed:
                raise RuntimeError(
                    "the codec is closed, with the model that it belonged to; take pictures before the model is "
                    "closed, or load it again for model.codec"
                )
            source, target = (self._tensors[role] for role in self._roles)
            out = np.empty((len(items), *target.shape[1:]), np.float32)
            for first in range(0, len(items), len(source)):
                part = items[first : first + len(source)]
                source[: len(part)] = part
                self._tensors.upload(self._roles[0])
                self._call.enqueue()
                self._tensors.download(self._roles[1])
                out[first : first + len(part)] = target[: len(part)]
            return out

    def close(self) -> None:
        with self._lock:  # waits for a running call
            if not self._closed:
                self._closed = True
                del self._call, self._tensors  # releases the queue, although chunks still refer to the codec
                self._undo.close()
