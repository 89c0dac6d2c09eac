"""Between pictures and latents, by the bundle's two codec graphs."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .. import bundle as _bundle
from ..errors import TensorMismatchError
from .arrays import HostArray, allocate_array, checked_array
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
        self._encode = _Stage(backend, bundle, codec.encode)
        self._decode = _Stage(backend, bundle, codec.decode)

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
    """One codec graph: [batch, ...] in, [batch, ...] out, the last batch padded."""

    def __init__(self, backend: Backend, bundle: _bundle.Bundle, graph: _bundle.Graph) -> None:
        program = backend.load(bundle, graph)
        (source,), (target,) = graph.inputs, graph.outputs
        self._source: HostArray = allocate_array(backend.device, source.shape, source.dtype)
        self._target: HostArray = allocate_array(backend.device, target.shape, target.dtype)
        self._call = program.bind({source.name: self._source.address, target.name: self._target.address})

    @property
    def item_shape(self) -> tuple[int, ...]:
        """Shape of one item of the input's batch."""
        return self._source.array.shape[1:]

    def run(self, items: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        batch = len(self._source.array)
        out = np.empty((len(items), *self._target.array.shape[1:]), np.float32)
        for first in range(0, len(items), batch):
            part = items[first : first + batch]
            self._source.array[: len(part)] = part
            self._call.enqueue()
            out[first : first + batch] = self._target.array[: len(part)]
        return out

    def close(self) -> None:
        self._source.memory.close()
        self._target.memory.close()
