"""What the exporter asks of a model family. All that is known of one family alone is behind this."""

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
    """The configuration of one model: what its torch module is built from.

    Attributes:
        family: Name of its family.
    """

    family: ClassVar[str]

    def describe(self) -> str:
        """Return the sizes that the module's memory depends on, for an error."""
        ...


_A = TypeVar("_A", bound=Architecture)
_M = TypeVar("_M", bound="nn.Module")


class Family(Protocol[_A, _M]):
    """A kind of model. Nothing but :meth:`build` and what takes a module needs torch.

    Attributes:
        name: As in model.json and in configurations.
        presets: Constructor arguments of published models, by name.
    """

    name: str
    presets: Mapping[str, Mapping[str, Any]]

    def read_config(self, arguments: Mapping[str, Any], latent_size: tuple[int, int] | None = None) -> _A:
        """Translate constructor arguments, as a configuration file holds them.

        Args:
            arguments: By name; ``type`` may name a preset.
            latent_size: Height and width of a latent frame instead of those in ``arguments``.

        Raises:
            ExportError: An argument is unknown, missing, of the wrong kind or out of range.
            ValueError: ``latent_size`` does not fit the model.
        """
        ...

    def make_geometry(self, config: _A, options: ExportOptions) -> Geometry:
        """Return every size of the graphs, with cache layout, cache policy and position scheme.

        Raises:
            ValueError: The options do not fit the architecture.
        """
        ...

    def parameters(self, config: _A) -> ParameterNames:
        """Return what the names of the module's parameters mean."""
        ...

    def caution(self, geometry: Geometry) -> str | None:
        """Return what a user should know of a bundle of these sizes, in a sentence; None for nothing."""
        ...

    def build(self, config: _A) -> _M:
        """Return the torch module, float32, with weights as torch initializes them; it keeps ``config``."""
        ...

    def select_weights(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return a checkpoint's tensors under the module's names, without those that the module rebuilds itself."""
        ...

    def make_graphs(self, model: _M, geometry: Geometry, precision: Precision) -> Mapping[Stage, Exportable]:
        """Return the graphs of a precision, fill and denoise at least; may round the module's own weights.

        Float32 is asked for first.
        """
        ...

    def null_text(self, model: _M) -> Tensor | None:
        """Return what the null row reads, float32 [tokens, width]; None for a model without text."""
        ...
