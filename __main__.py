"""``python -m vdmrt``: the command line, for when the script ``vdmrt`` is not on the path."""

from __future__ import annotations

from .cli import main

if __name__ == "__main__":
    main(prog_name="python -m vdmrt")
