"""The process of a stage, of a contender, or of the builder of one bundle's plans."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..stages import choose_stages
from .contender import claim_stdout, serve
from .record import Missing, Recorder
from .settings import Settings
from .stage import MISSING_STATUS, end_with_parent

__all__ = ["run_child"]

_PACKAGE = __name__.rpartition(".running.")[0]


def run_child(argv: Sequence[str]) -> int:
    """Do what the parent asks for; a missing thing has an exit status of its own."""
    parser = argparse.ArgumentParser()
    for name in ("--stage", "--contender", "--plans", "--records", "--settings"):
        parser.add_argument(name)
    arguments = parser.parse_args(argv)
    settings = Settings.from_json(arguments.settings)
    if not arguments.contender:  # a contender ends with its standard input
        end_with_parent()  # here too: an interpreter may be a shell that starts another process
    try:
        if arguments.contender:
            _contend(settings, arguments.contender)
        elif arguments.plans:
            asked = {"settings": settings, "record": Recorder(Path(arguments.records)), **json.loads(arguments.plans)}
            _function("checks.plans:build_bundle")(**asked)
        else:
            (stage,) = choose_stages([arguments.stage])
            _function(stage.run)(settings, Recorder(Path(arguments.records)), **stage.arguments)
    except Missing as error:
        print(error, file=sys.stderr)
        return MISSING_STATUS
    except Exception:
        traceback.print_exc()
        return 1
    return 0


def _contend(settings: Settings, asked: str) -> None:
    answers = claim_stdout()
    steps, notes = _function("full_size.steps:make_steps")(settings, json.loads(asked))
    serve(steps, notes, answers)


def _function(name: str) -> Callable[..., Any]:
    module, _, function = name.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(f"{_PACKAGE}.{module}"), function)
    return found
