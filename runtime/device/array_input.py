"""Array arguments of users: host arrays without a copy, arrays on the model's GPU copied to the host."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from ...errors import TensorMismatchError
from .._core import inspect_dlpack

if TYPE_CHECKING:
    from .._core import Device
    from .arrays import Array

__all__ = ["ArrayInput", "host_array"]


class _DlpackArray(Protocol):
    def __dlpack_device__(self) -> tuple[Any, Any]: ...

    def __dlpack__(self, *, stream: Any = ...) -> Any: ...


class _CudaArray(Protocol):
    @property
    def __cuda_array_interface__(self) -> Mapping[str, Any]: ...


# Accepted arrays: those that numpy converts, and GPU arrays as of torch and CuPy.
ArrayInput: TypeAlias = npt.ArrayLike | _DlpackArray | _CudaArray

# DLDeviceType of memory that the host reads, and of a GPU's (https://dmlc.github.io/dlpack/latest/c_api.html).
_HOST, _CUDA = (1, 3), 2
_KINDS = {0: "i", 1: "u", 2: "f", 6: "b"}  # numpy's kinds by DLDataTypeCode


@dataclass(frozen=True)
class _Foreign:
    """A tensor in device memory that another library owns; strides in bytes."""

    address: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: np.dtype[Any]


def host_array(name: str, value: Any, open_device: Callable[[], Device]) -> Array:
    """Return ``value`` as a host array; an array on the GPU is copied after the pending work of its stream.

    Args:
        name: Name of the argument, for error messages.
        value: Anything that numpy can view, or that has DLPack or ``__cuda_array_interface__``; any strides.
        open_device: Opens the device that the array is used on; called for an array on a GPU.

    Raises:
        TensorMismatchError: The array is on another device, or of a dtype that numpy lacks.
        DeviceError: The copy failed.
    """
    has_dlpack = hasattr(value, "__dlpack__") and hasattr(value, "__dlpack_device__")
    kind, index = value.__dlpack_device__() if has_dlpack else (_HOST[0], 0)
    if kind in _HOST and (has_dlpack or not hasattr(value, "__cuda_array_interface__")):
        return np.asarray(value)
    device = open_device()
    if not has_dlpack:
        return _by_interface(name, value.__cuda_array_interface__, device)
    if int(kind) != _CUDA:
        raise TensorMismatchError(name, f"is on a device of DLPack's type {int(kind)}; copy it to the host")
    _check_place(name, int(index), device)
    # The producer makes our queue wait for its pending work. The capsule owns the tensor until we return.
    capsule = value.__dlpack__(stream=device.stream)
    return _download(_read_capsule(name, capsule), device)


def _by_interface(name: str, interface: dict[str, Any], device: Device) -> Array:
    # https://numba.readthedocs.io/en/stable/cuda/cuda_array_interface.html, version 3
    dtype = np.dtype(interface["typestr"])
    shape = tuple(int(side) for side in interface["shape"])
    if interface.get("mask") is not None:
        raise TensorMismatchError(name, "has a mask, which is not supported; fill the masked elements first")
    if 0 in shape:
        return np.empty(shape, dtype)
    address, stream = int(interface["data"][0]), interface.get("stream")
    _check_place(name, None if device.is_host else device.locate(address), device)
    if stream is not None:
        if stream == 0:
            raise TensorMismatchError(name, "names stream 0, which its interface forbids; wanted 1, 2 or a stream")
        device.synchronize_stream(int(stream))
    strides = interface.get("strides") or _contiguous(shape, dtype.itemsize)
    return _download(_Foreign(address, shape, tuple(strides), dtype), device)


def _check_place(name: str, index: int | None, device: Device) -> None:
    place = "a GPU" if index is None else f"cuda:{index}"
    if device.is_host:
        raise TensorMismatchError(name, f"is on {place}, and this model runs on the host; copy it, as by .cpu()")
    if index != device.index:
        raise TensorMismatchError(
            name, f"is on {place}, and this model runs on {device.name}; copy it, as by .to('{device.name}')"
        )


def _read_capsule(name: str, capsule: object) -> _Foreign:
    address, shape, strides, (code, bits, lanes) = inspect_dlpack(capsule)
    if code not in _KINDS or bits % 8 or lanes != 1:
        raise TensorMismatchError(
            name, f"is of DLPack's type code {code} with {bits} bits, which numpy lacks; convert it, as by .float()"
        )
    dtype = np.dtype(f"{_KINDS[code]}{bits // 8}")
    return _Foreign(address, shape, tuple(stride * dtype.itemsize for stride in strides), dtype)


def _contiguous(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    strides, nbytes = [], itemsize
    for side in reversed(shape):
        strides.append(nbytes)
        nbytes *= side
    return tuple(reversed(strides))


def _download(tensor: _Foreign, device: Device) -> Array:
    """Copy the bytes from the first to the last element, and return a view with the tensor's strides."""
    if 0 in tensor.shape:
        return np.empty(tensor.shape, tensor.dtype)
    reaches = [(side - 1) * stride for side, stride in zip(tensor.shape, tensor.strides, strict=True)]
    before = -sum(reach for reach in reaches if reach < 0)
    after = sum(reach for reach in reaches if reach > 0) + tensor.dtype.itemsize
    copied = np.empty(before + after, np.uint8)
    device.download(copied.ctypes.data, tensor.address - before, copied.nbytes)
    device.synchronize()
    view: Array = np.ndarray(tensor.shape, tensor.dtype, copied.data, before, tensor.strides)
    return view
