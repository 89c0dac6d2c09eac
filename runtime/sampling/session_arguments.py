"""Arguments of a session, loaded from the sampling options."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ...errors import MediaError

if TYPE_CHECKING:
    from .sampling_options import SamplingOptions

__all__ = ["session_arguments"]


def session_arguments(options: SamplingOptions) -> dict[str, Any]:
    """Return the given arguments of :meth:`Model.session`, with arrays loaded from their files.

    Raises:
        MediaError: The file of the text embeddings or of their mask is missing or is not an array of numbers.
    """
    given = {name: getattr(options, name) for name in ("steps", "sampler", "guidance", "prefix_noise")}
    given["text"] = _read_array(options.text, "text embeddings, .npy [tokens, width]")
    given["text_mask"] = _read_array(options.text_mask, "a text mask, .npy [tokens]")
    return {name: value for name, value in given.items() if value is not None}


def _read_array(path: Path | None, wanted: str) -> npt.NDArray[Any] | None:
    """Load an array of numbers; memory-mapped first, because that compares the header with the file's length."""
    if path is None:
        return None
    try:
        with path.open("rb") as file:
            np.lib.format.read_magic(file)
        array: npt.NDArray[Any] = np.array(np.load(path, mmap_mode="r", allow_pickle=False))
    except FileNotFoundError as error:
        raise MediaError(f"'{path}' does not exist, {wanted} was wanted") from error
    except (OSError, ValueError, EOFError) as error:
        raise MediaError(f"'{path}' is not {wanted}: {error}") from error
    if array.dtype.kind not in "fiub":
        raise MediaError(f"'{path}' is not {wanted}: its dtype is {array.dtype}")
    return array
