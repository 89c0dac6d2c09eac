"""A PNG picture embedded in a page."""

from __future__ import annotations

import base64
import html
from dataclasses import dataclass

__all__ = ["Picture"]


@dataclass(frozen=True)
class Picture:
    """A picture.

    Attributes:
        title: Caption.
        png: Content of the PNG file.
    """

    title: str
    png: bytes

    def render(self) -> str:
        """Return the picture as HTML."""
        title, data = html.escape(self.title), base64.b64encode(self.png).decode()
        return (
            f'<figure class="picture wide"><figcaption>{title}</figcaption>'
            f'<img alt="{title}" src="data:image/png;base64,{data}"></figure>'
        )
