"""Files: written atomically, replaced as a whole, checked before they are read."""

from __future__ import annotations
