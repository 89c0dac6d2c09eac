"""Draws docs/architecture.svg from docs/architecture.txt."""

from __future__ import annotations

import html
from pathlib import Path

__all__ = ["draw", "read_sections"]

_HERE = Path(__file__).parent
_WIDTH, _BOX_HEIGHT, _GAP = 960, 46, 14
_SUBTITLES = {
    "cli.py": "the command vdmrt",
    "building.py": "builds and checks engines",
    "calibration": "lower precision, verification",
    "profiler": "latency, memory, layer times",
    "media": "pictures and clips",
    "export": "model families to ONNX",
    "engines": "TensorRT, ONNX Runtime",
    "runtime": "KV cache, sampling, sessions",
    "reporting": "pages and charts",
    "hosts": "GPUs, libraries, doctor",
    "console": "shared command parts",
    "bundle": "model.json, graphs, calibration, plans",
    "errors.py": "exceptions",
    "_lazy.py": "names imported on first use",
}
_STYLE = """
text{font:13px system-ui,sans-serif;fill:#1d2b3a;text-anchor:middle}
.name{font-weight:600}.small{font-size:11px;fill:#51606e}.title{font-size:15px;font-weight:600;text-anchor:start}.note{font-size:11px;fill:#51606e;text-anchor:start}
.room{fill:#eaf1fb;stroke:#4a6fa5}.store{fill:#e8f4ec;stroke:#3c8259}.end{fill:#fdf3e7;stroke:#c2571a}
.arrow{stroke:#c2571a;stroke-width:1.5;fill:none;marker-end:url(#head)}
"""


def main() -> None:
    """Write the picture beside its source."""
    (_HERE / "architecture.svg").write_text(draw((_HERE / "architecture.txt").read_text(encoding="utf-8")))


def read_sections(text: str) -> dict[str, list[list[str]]]:
    """Return the lines of each ``[section]``, split where two or more spaces separate columns."""
    sections: dict[str, list[list[str]]] = {}
    for line in text.splitlines():
        if line.startswith("["):
            sections[line.strip("[]")] = []
        elif line.strip() and not line.startswith("#"):
            cells = [cell.strip() for cell in line.split("  ") if cell.strip()]
            sections[list(sections)[-1]].append(cells)
    return sections


def draw(text: str) -> str:
    """Return the picture as SVG."""
    sections = read_sections(text)
    data, height = _draw_data(sections["data"], sections["ends"])
    rows, height = _draw_rows(sections["rows"], height + 50)
    marker = (
        '<marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0L8 4L0 8z" fill="#c2571a"/></marker>'
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img" '
        f'aria-label="Data flow and folders of vdmrt"><style>{_STYLE}</style><defs>{marker}</defs>'
        f'<rect width="{_WIDTH}" height="{height}" rx="8" fill="#fff"/>\n{data}\n{rows}\n</svg>\n'
    )


def _draw_data(stages: list[list[str]], ends: list[list[str]]) -> tuple[str, int]:
    """Return the data flow, left to right over the bundle, and its lower edge."""
    order = ["checkpoint", *(stage[0] for stage in stages), "media", "clip"]
    width = (_WIDTH - 40 - _GAP * 2 * (len(order) - 1)) // len(order)
    left = {name: 20 + index * (width + 2 * _GAP) for index, name in enumerate(order)}
    left |= {"profiler": left["media"], "report": left["clip"]}
    top = dict.fromkeys(left, 60) | {"profiler": 60 + _BOX_HEIGHT + 24, "report": 60 + _BOX_HEIGHT + 24}
    store = top["profiler"] + _BOX_HEIGHT + 40
    parts = ['<text class="title" x="20" y="34">Data</text>']
    parts += [_box(left[name], top[name], width, name) for name in left]
    parts.append(_box(left["export"], store, left["runtime"] + width - left["export"], "bundle", kind="store"))
    for name, reads, adds in stages:
        middle, floor = left[name] + width / 2, top[name] + _BOX_HEIGHT
        if adds != "-":
            parts.append(_arrow(middle + 18, floor, middle + 18, store) + _label(middle + 18, floor + 40, adds))
        if reads != "-":
            parts.append(_arrow(middle - 18, store, middle - 18, floor) + _label(middle - 18, floor + 62, reads))
    for start, target, *label in ends:
        parts.append(_draw_flow(left, top, width, start, target.removeprefix("> "), *label))
    return "\n".join(parts), store + _BOX_HEIGHT


def _draw_flow(left: dict[str, int], top: dict[str, int], width: int, start: str, target: str, label: str = "") -> str:
    """Return an arrow from one box to the one at its right."""
    x, y = left[start] + width, top[start] + _BOX_HEIGHT / 2
    end_x, end_y = left[target], top[target] + _BOX_HEIGHT / 2
    place = (left[target] + width / 2, top[target] - 7)
    return _arrow(x, y, end_x, end_y) + (_label(*place, label) if label else "")


def _draw_rows(rows: list[list[str]], top: int) -> tuple[str, int]:
    """Return the folders in rows, and their lower edge."""
    parts = [
        f'<text class="title" x="20" y="{top}">Imports</text>',
        f'<text class="note" x="90" y="{top}">a folder imports only folders of lower rows</text>',
    ]
    top += 16
    for row in rows:
        width = (_WIDTH - 40 - _GAP * (len(row) - 1)) / len(row)
        for index, name in enumerate(row):
            parts.append(_box(20 + index * (width + _GAP), top, width, name, subtitle=_SUBTITLES[name]))
        top += _BOX_HEIGHT + 8
    return "\n".join(parts), top + 12


def _box(x: float, y: float, width: float, name: str, *, kind: str = "", subtitle: str = "") -> str:
    kind = kind or ("room" if name in _SUBTITLES else "end")
    title = name if name.endswith(".py") or kind == "end" else f"{name}/"
    lines = f'<text class="name" x="{x + width / 2:g}" y="{y + (20 if subtitle else 28):g}">{html.escape(title)}</text>'
    if subtitle:
        lines += f'<text class="small" x="{x + width / 2:g}" y="{y + 37:g}">{html.escape(subtitle)}</text>'
    return f'<rect class="{kind}" x="{x:g}" y="{y:g}" width="{width:g}" height="{_BOX_HEIGHT}" rx="6"/>{lines}'


def _arrow(x: float, y: float, end_x: float, end_y: float) -> str:
    return f'<path class="arrow" d="M{x:g} {y:g}L{end_x:g} {end_y:g}"/>'


def _label(x: float, y: float, text: str) -> str:
    return f'<text class="small" x="{x:g}" y="{y:g}" stroke="#fff" stroke-width="4" paint-order="stroke">{text}</text>'


if __name__ == "__main__":
    main()
