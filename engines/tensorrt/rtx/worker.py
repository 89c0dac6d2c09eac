"""The process that builds one plan; :mod:`.process` starts it and reads its messages, one JSON object a line."""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ....bundle import Graph, Precision, decode
from ....errors import BackendError, VdmrtError
from ....hosts.tensorrt.rtx import open_tensorrt_rtx
from ...progress import Cancelled
from ..job import BuildJob
from ..lowering import GraphSource
from ..options import BuildOptions
from ..plans import build_network
from .build_log import inspection_of, scratch_of

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["main"]


def main() -> None:
    """Build what the first line of standard input requests, and write progress and the result to standard output."""
    messages = os.fdopen(os.dup(1), "w")  # whatever a library prints goes to stderr
    os.dup2(2, 1)

    def write(**message: Any) -> None:
        print(json.dumps(message), file=messages, flush=True)

    request = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        write(**_build(request, lambda line: write(progress=line)))
    except VdmrtError as error:
        write(error=type(error).__name__, message=str(error))
    except OSError as error:
        write(error="OSError", errno=error.errno or 0, message=error.strerror or str(error))
    except MemoryError:
        write(error=BackendError.__name__, message=f"{request['stage']}: there is not enough memory to build the plan")
    messages.close()
    os._exit(0)  # the plan is written; unloading the library takes time


def _build(request: dict[str, Any], progress: Callable[[str], None]) -> dict[str, Any]:
    stage, options, source = request["stage"], request["options"], Path(request["source"])
    os.chdir(source.parent)  # the plan does not depend on the path of the bundle then
    options["targets"] = tuple(options["targets"])
    graph = decode(Graph, request["graph"], "")
    library = open_tensorrt_rtx()
    job = BuildJob(library, Precision.parse(request["precision"]), {stage: graph}, BuildOptions(**options), progress)
    with library.log.collect_layers() as listed:
        data, _ = build_network(job, stage, GraphSource(Path(source.name)), b"", Cancelled())
    Path(request["plan"]).write_bytes(memoryview(data))
    return {
        "scratch_nbytes": scratch_of(listed),
        "inspection": inspection_of(listed),
        "skipped": library.log.take_skipped(),
    }


def _end_with_parent() -> None:
    """Wait for the end of standard input, which is closed when the parent ends, however that ends."""
    while os.read(0, 1):
        pass
    os._exit(1)
