"""Markup that is escaped by construction: only what ``el`` made is trusted."""

from html import escape

_VOID = frozenset({"br", "circle", "img", "input", "line", "meta", "path", "polygon"})


class Markup(str):
    """Text that is already markup."""

    __slots__ = ()


Node = Markup | str | int | float | None


def el(name: str, /, *children: Node, **attributes: object) -> Markup:
    """Return one HTML or SVG element; children that are not markup are escaped.

    Args:
        name: Tag name.
        children: Markup, or text to escape; None is left out.
        attributes: A trailing underscore is dropped and others become hyphens (``class_``, ``aria_label``).
            None and False leave an attribute out, True writes it bare, floats are rounded to 2 decimals.
    """
    head = name + "".join(_attribute(key, value) for key, value in attributes.items())
    if name in _VOID:
        return Markup(f"<{head}/>")
    return Markup(f"<{head}>{join(*children)}</{name}>")


def join(*children: Node) -> Markup:
    """Return the children one after another, text escaped."""
    return Markup("".join(c if isinstance(c, Markup) else escape(str(c)) for c in children if c is not None))


def _attribute(key: str, value: object) -> str:
    key = key.rstrip("_").replace("_", "-")
    if value is None or value is False:
        return ""
    if value is True:
        return f" {key}"
    text = f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
    return f' {key}="{escape(text)}"'
