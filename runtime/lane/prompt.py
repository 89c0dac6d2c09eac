"""Prompts: padded text embeddings and token masks for each transformer row of a request."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from ...errors import BundleError
from ..device.array_input import host_array
from ..device.arrays import Array, checked_array

if TYPE_CHECKING:
    from ...bundle import Bundle, Geometry
    from .._core import Device
    from ..device.array_input import ArrayInput

__all__ = ["Prompt", "make_prompt", "read_null_text"]

# Float32 text [rows_per_request, tokens, width] and mask [rows_per_request, tokens].
Prompt = tuple[Array, Array]


def make_prompt(
    geometry: Geometry,
    null_text: Array,
    text: ArrayInput | None,
    mask: ArrayInput | None,
    open_device: Callable[[], Device],
) -> Prompt | None:
    """Return the text of a request's rows, the null row first and with the prompt's mask; None without text.

    Args:
        geometry: Sizes of the model.
        null_text: Text of the null row, [tokens, width].
        text: Embeddings, floating point [tokens, width].
        mask: 1 for a valid token, [tokens]; None treats all tokens as valid.
        open_device: Opens the device that arrays on a GPU are copied from.

    Raises:
        ValueError: Text is missing or not supported by the model, or the number of tokens is out of range.
        TensorMismatchError: The shape differs from the model's, or a value is NaN or Inf.
    """
    g = geometry
    if g.text_width == 0:
        if text is not None or mask is not None:
            raise ValueError("the model has no text; leave out text and text_mask")
        return None
    if text is None:
        raise ValueError(f"the model wants text embeddings [tokens <= {g.text_tokens}, {g.text_width}], got none")
    embeddings = checked_array("text", host_array("text", text, open_device), (None, g.text_width), "tokens, width")
    counted = _counted(mask, len(embeddings), open_device)
    if len(embeddings) > g.text_tokens or not counted.any():
        raise ValueError(
            f"the model takes 1 to {g.text_tokens} tokens, got {len(embeddings)}, "
            f"of which {np.count_nonzero(counted)} count"
        )
    padded = np.zeros((g.text_tokens, g.text_width), np.float32)
    padded[: len(embeddings)] = embeddings
    visible = np.zeros(g.text_tokens, np.float32)
    visible[: len(embeddings)] = counted != 0
    rows = [padded] if g.rows_per_request == 1 else [null_text, padded]
    return np.stack(rows), np.stack([visible] * g.rows_per_request)


def _counted(mask: ArrayInput | None, tokens: int, open_device: Callable[[], Device]) -> Array:
    if mask is None:
        return np.ones(tokens, np.float32)
    given = np.asarray(host_array("text_mask", mask, open_device), np.float32)
    return checked_array("text_mask", given, (tokens,), "tokens")


def read_null_text(bundle: Bundle) -> Array:
    """Load the text of the null row, float32 [tokens, width]; empty if the bundle has none.

    Raises:
        BundleError: The file is missing or is not such an array.
    """
    g, artifact = bundle.manifest.geometry, bundle.manifest.null_text
    if artifact is None:
        if g.rows_per_request == 2:
            raise BundleError("has null rows but no null text; export it again", path=bundle.path)
        return np.zeros((0, 0), np.float32)
    path = bundle.locate(artifact)
    try:
        return checked_array(
            "null_text", np.load(path, allow_pickle=False), (g.text_tokens, g.text_width), "tokens, width"
        )
    except ValueError as error:
        raise BundleError(f"is no array of numbers: {error}", path=path) from error
