"""Charts that are updated in place instead of being taken away and drawn anew.

Streamlit 1.67 makes a chart's identity from its data, so a live chart blinks and forgets its zoom with every new point.
For other elements it lets a `key` alone be the identity; `keep_charts` asks for the same where a chart has one. It
reaches into Streamlit for that, which is why its version is pinned and tests/test_panels.py holds it to this.
"""

from functools import partial
from typing import Any

from streamlit.elements import plotly_chart
from streamlit.elements.lib.utils import compute_and_register_element_id


def keep_charts() -> None:
    """From now on, in this process. Doing it again changes nothing."""
    vars(plotly_chart)["compute_and_register_element_id"] = _by_key


def _by_key(kind: str, *, user_key: str | None, key_as_main_identity: Any, **arguments: Any) -> str:
    register = partial(compute_and_register_element_id, kind, user_key=user_key, **arguments)
    return register(key_as_main_identity=user_key is not None or key_as_main_identity)
