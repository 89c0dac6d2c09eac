"""Between pictures and latents, by the bundle's two codec graphs."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import bundle as _bundle
from ..errors import TensorMismatchError
from ._core import Device
from .arrays import TensorBlock, checked_array
from .backend import Backend

__all__ = ["PictureCodec"]

Pictures = npt.NDArray[np.uint8]


class PictureCodec:
    """Encodes pictures to latents and decodes latents to pictures.

    Attributes:
        kind: "preview" for the fixed map without a VAE, "vae" for a trained one.
        picture_size: Height and width of a pixel frame.
    """

    def __init__(self, backend: Backend, bundle: _bundle.Bundle, codec: _bundle.Codec) -> None:
        self.kind = codec.kind
        self.picture_size = codec.picture_size
        # A queue of its own, so that decoding one chunk overlaps denoising the next.
        device = backend.open_device()
        self._encode = _Stage(backend, device, bundle, "vae_encode", codec.encode)
        self._decode = _Stage(backend, device, bundle, "vae_decode", codec.decode)

    def encode(self, pictures: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Encode ``pictures``, uint8 [n, height, width, 3], to latents, float32 [n, c, h, w].

        Raises:
            TensorMismatchError: Dtype or size differ.
        """
        wanted = (*self.picture_size, 3)
        if pictures.dtype != np.uint8 or pictures.ndim != 4 or pictures.shape[1:] != wanted:
            raise TensorMismatchError(
                "pictures",
                f"wanted uint8 [n, {wanted[0]}, {wanted[1]}, 3], found {pictures.dtype} {list(pictures.shape)}",
            )
        planes = pictures.transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1.0
        return self._encode.run(planes)

    def decode(self, latents: npt.NDArray[np.float32]) -> Pictures:
        """Decode ``latents``, float32 [n, c, h, w], to pictures, uint8 [n, height, width, 3].

        Raises:
            TensorMismatchError: Shape, dtype or values are not what the codec takes.
        """
        shape = self._decode.item_shape
        planes = self._decode.run(checked_array("latents", latents, (None, *shape), "n, c, h, w"))
        levels = np.clip((planes + 1.0) * 127.5, 0.0, 255.0).round().astype(np.uint8)
        return np.ascontiguousarray(levels.transpose(0, 2, 3, 1))

    def close(self) -> None:
        """Free all memory."""
        self._encode.close()
        self._decode.close()


class _Stage:
    """One codec graph: [batch, ...] in, [batch, ...] out, the last batch padded. Several threads may share it."""

    def __init__(
        self, backend: Backend, device: Device, bundle: _bundle.Bundle, stage: str, graph: _bundle.Graph
    ) -> None:
        (source,), (target,) = graph.inputs, graph.outputs
        self._device = device
        self._lock = threading.Lock()
        with ExitStack() as undo:
            self._program = backend.load(bundle, stage, graph)
            undo.callback(self._program.close)
            self._tensors = TensorBlock(device, (source, target))
            undo.callback(self._tensors.close)
            nbytes = self._program.scratch_nbytes
            scratch = device.allocate(nbytes) if nbytes else None
            if scratch is not None:
                undo.callback(scratch.close)
            context = self._program.create_context(device, scratch.address if scratch is not None else 0)
            undo.callback(context.close)
            self._call = context.bind(self._tensors.addresses())
            self._undo = undo.pop_all()
        self._names = source.name, target.name

    @property
    def item_shape(self) -> tuple[int, ...]:
        """Shape of one item of the input's batch."""
        return self._tensors[self._names[0]].shape[1:]

    def run(self, items: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        with self._lock:
            source, target = (self._tensors[name] for name in self._names)
            out = np.empty((len(items), *target.shape[1:]), np.float32)
            for first in range(0, len(items), len(source)):
                part = items[first : first + len(source)]
                source[: len(part)] = part
                self._tensors.upload(self._names[0])
                self._call.enqueue()
                self._tensors.download(self._names[1])
                out[first : first + len(part)] = target[: len(part)]
            return out

    def close(self) -> None:
        self._undo.close()
