"""What a recipe says about stores. Secrets never: credentials come from where AWS's own tools look for them."""

from __future__ import annotations

from pipeline.config import Section


class Storage(Section):
    """How buckets and servers are reached."""
