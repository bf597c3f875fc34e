"""CARD.md: what a trained model is, what it was trained on, and how far to trust it."""

import json
from collections.abc import Mapping, Sequence


def model_card(card: Mapping, run: Mapping) -> str:
    """Return the Markdown card of one run.

    Args:
        card: ``name``, ``title``, ``summary``, ``references``, ``good_at``, ``bad_at`` and ``likelihood`` of
            the family; any but the name may be missing.
        run: The resolved run.json: ``config``, ``data``, ``train``, ``versions``, ``seed`` and ``state``;
            any may be missing.
    """
    title = card.get("title") or card["name"]
    parts = [
        f"# {_plain(title)}",
        f"`{card['name']}`. {_plain(card.get('summary', ''))}".strip(),
        _list("Good at", card.get("good_at", ())),
        _list("Not good at", card.get("bad_at", ())),
        _section("Likelihood", _plain(card.get("likelihood") or "none")),
        _section("How it was trained", _facts(run)),
        _section("Settings", _json(run["config"])) if run.get("config") else "",
        _list("References", card.get("references", ())),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _section(title: str, body: str) -> str:
    return f"## {title}\n\n{body}" if body else ""


def _list(title: str, items: Sequence[str]) -> str:
    return _section(title, "\n".join(f"- {_plain(item)}" for item in items))


def _facts(run: Mapping) -> str:
    rows = [
        f"| {key} | {_value(run[key])} |"
        for key in ("data", "train", "seed", "state", "versions")
        if key in run
    ]
    return "\n".join(["| | |", "|---|---|", *rows]) if rows else ""


def _value(value: object) -> str:
    """One table cell: a mapping becomes ``key value`` pairs."""
    if isinstance(value, Mapping):
        return ", ".join(f"{_plain(key)} {_value(inner)}" for key, inner in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(_value(inner) for inner in value)
    return _plain(value)


def _plain(value: object) -> str:
    """Text on one line that cannot become a tag or end a table cell."""
    text = " ".join(str(value).split())
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")


def _json(value: object) -> str:
    return f"```json\n{json.dumps(value, indent=2, ensure_ascii=False)}\n```"
