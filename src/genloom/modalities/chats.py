"""Conversations as texts: each turn after a line that says whose it is."""

from collections.abc import Mapping, Sequence
from typing import Any

from genloom.core.errors import DataError

ROLES = ("system", "user", "assistant")

STOP = "\n<|"
"""What comes after a turn."""


def opening(role: str) -> str:
    """Return the line before a turn."""
    return f"<|{role}|>\n"


def turn(role: str, content: str) -> str:
    """Return a turn as it is written; what looks like the line before a turn loses its bar."""
    return f"{opening(role)}{content.strip().replace('<|', '<')}\n"


def written(messages: Any, place: str) -> str:
    """Return a conversation as one text.

    Args:
        messages: mappings with ``role``, one of ``ROLES``, and ``content``.
        place: where they stand, for the error.

    Raises:
        DataError: they are something else.
    """
    if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
        raise DataError(f"{place}: messages must be a list of turns, each with a role and a content")
    return "".join(_turn(message, place) for message in messages)


def _turn(message: Any, place: str) -> str:
    if not isinstance(message, Mapping) or message.get("role") not in ROLES:
        raise DataError(f"{place}: each turn needs a role, one of {', '.join(ROLES)}")
    if not isinstance(message.get("content"), str):
        raise DataError(f"{place}: the turn of the {message['role']} has no text as its content")
    return turn(message["role"], message["content"])
