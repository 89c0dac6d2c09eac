"""The recorder's ONNX parser and refitters: read a file, or report the node that is not supported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .networks import Unsupported, is_supported, parse_graph

__all__ = ["BEHAVIORS"]


class _Parser:
    def _start(self: Any, network: Any, logger: Any) -> None:
        self._network = network
        self._logger = logger
        self._errors: list[Any] = []

    def __del__(self: Any) -> None:
        if self._made:
            self._recorder.ended(self)

    @property
    def num_errors(self: Any) -> int:
        return len(self._errors)

    def get_error(self: Any, index: int) -> Any:
        return self._errors[index]

    def clear_errors(self: Any) -> None:
        self._errors.clear()

    def supports_operator(self: Any, op_name: str) -> bool:
        recorder = self._recorder
        return is_supported(op_name, (recorder.major, recorder.minor), recorder.unsupported)

    def set_flag(self: Any, flag: Any) -> None:
        """Do nothing: flags have no effect on the recorder."""

    def set_builder_config(self: Any, builder_config: Any) -> bool:
        return True

    def parse(self: Any, model: Any, path: str | None = None) -> bool:
        return bool(self._read(bytes(memoryview(model)), Path(path).parent if path else None))

    def parse_from_file(self: Any, model: str) -> bool:
        if not isinstance(model, str):
            raise TypeError("parse_from_file(): incompatible function arguments")
        if not Path(model).is_file():
            self._recorder.say(self, "ERROR", f"Failed to open file: {model}")
            self._add(Unsupported(-1, "", "", "MODEL_DESERIALIZE_FAILED", f"Failed to open file: {model}"))
            return False
        return bool(self._read(Path(model).read_bytes(), Path(model).parent))

    def _read(self: Any, data: bytes, folder: Path | None) -> bool:
        recorder = self._recorder
        release = (recorder.major, recorder.minor)
        try:
            if self._network.has_implicit_batch_dimension:
                text = "This version of the ONNX parser only supports networks with an explicit batch dimension"
                raise Unsupported(-1, "", "", "INVALID_VALUE", text)
            graph = parse_graph(data, folder, release, recorder.unsupported)
        except Unsupported as error:
            recorder.say(self, "ERROR", f"ModelImporter.cpp: {error}")
            self._add(error)
            return False
        self._network._fill(graph, self)
        return True

    def _add(self: Any, error: Unsupported) -> None:
        self._errors.append(self._recorder.create("ParserError", error=error))


class _ParserError:
    def _start(self: Any, error: Unsupported) -> None:
        self._error = error

    def __str__(self: Any) -> str:
        at = f"In node {self._error.index}"
        if self._recorder.major >= 10 and self._error.name:
            at += f" with name: {self._error.name} and operator: {self._error.operator}"
        return f"{at} (parse): {self._error.code}: {self._error}"

    __repr__ = __str__

    def code(self: Any) -> Any:
        return self._recorder.enum("ErrorCode", self._error.code)

    def desc(self: Any) -> str:
        return str(self._error)

    def file(self: Any) -> str:
        return "ModelImporter.cpp"

    def func(self: Any) -> str:
        return "parse"

    def line(self: Any) -> int:
        return 1

    def node(self: Any) -> int:
        return int(self._error.index)

    def node_name(self: Any) -> str:
        return str(self._error.name)

    def node_operator(self: Any) -> str:
        return str(self._error.operator)


class _Refitter:
    def _start(self: Any, engine: Any, logger: Any) -> None:
        self._engine = engine
        self._logger = logger
        self._given = False

    def refit_cuda_engine(self: Any) -> bool:
        if not self._engine.refittable or not self._given:
            self._recorder.say(
                self, "ERROR", "IRefitter::refitCudaEngine: weights are missing, or the engine takes none"
            )
            return False
        self._engine._refitted = True
        return True

    def get_missing_weights(self: Any) -> list[str]:
        return [] if self._given else ["weights"]


class _ParserRefitter:
    def _start(self: Any, refitter: Any, logger: Any) -> None:
        self._refitter = refitter
        self._logger = logger

    @property
    def num_errors(self: Any) -> int:
        return 0

    def refit_from_file(self: Any, **arguments: Any) -> bool:
        (path,) = arguments.values()
        if not Path(path).is_file():
            self._recorder.say(self, "ERROR", f"Failed to open file: {path}")
            return False
        self._refitter._given = True
        return True


BEHAVIORS: dict[str, type] = {
    "OnnxParser": _Parser,
    "OnnxParserRefitter": _ParserRefitter,
    "ParserError": _ParserError,
    "Refitter": _Refitter,
}
