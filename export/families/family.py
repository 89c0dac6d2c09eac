"""The interface of a model family. It hides everything that is specific to one family from the exporter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ...bundle import Geometry, ParameterNames, Precision, Stage
    from ..onnx_graph import Exportable
    from ..options import ExportOptions

__all__ = ["Architecture", "Family"]


class Architecture(Protocol):
    """The configuration of a model, from which its torch module is built.

    Attributes:
        family: Name of its family.
    """

    family: ClassVar[str]

    def describe(self) -> str:
        """Return the sizes that the module's memory depends on, for an error message."""
        ...


_A = TypeVar("_A", bound=Architecture)
_M = TypeVar("_M", bound="nn.Module")


class Family(Protocol[_A, _M]):
    """A model family. Only :meth:`build` and the methods that take a module need torch.

    Attributes:
        name: Its name in model.json and in configurations.
        presets: Constructor arguments of published models, by name.
    """

    name: str
    presets: Mapping[str, Mapping[str, Any]]

    def read_config(self, arguments: Mapping[str, Any], latent_size: tuple[int, int] | None = None) -> _A:
        """Convert the constructor arguments of a configuration file.

        Args:
            arguments: Arguments by name; ``type`` may name a preset.
            latent_size: Height and width of a latent frame instead of those in ``arguments``.

        Raises:
            ExportError: An argument is unknown, missing, of the wrong kind or out of range.
            ValueError: ``latent_size`` does not fit the model.
        """
        ...

    def make_geometry(self, config: _A, options: ExportOptions) -> Geometry:
        """Return all sizes of the graphs, with cache layout, cache policy and position scheme.

        Raises:
            ValueError: The options do not fit the architecture.
        """
        ...

    def parameters(self, config: _A) -> ParameterNames:
        """Return the roles of the module's parameters, by name."""
        ...

    def caution(self, geometry: Geometry) -> str | None:
        """Return a warning about a bundle of these sizes, in one sentence, or None."""
        ...

    def build(self, config: _A) -> _M:
        """Return the torch module, float32, with weights as torch initializes them; it keeps ``config``."""
        ...

    def select_weights(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return a checkpoint's tensors under the module's names, without those that the module rebuilds itself."""
        ...

    def make_graphs(self, model: _M, geometry: Geometry, precision: Precision) -> Mapping[Stage, Exportable]:
        """Return the graphs of a precision, at least fill and denoise; may round the module's weights in place.

        The exporter requests float32 first.
        """
        ...

    def null_text(self, model: _M) -> Tensor | None:
        """Return the embedding of the null prompt, float32 [tokens, width]; None for a model without text."""
        ...
