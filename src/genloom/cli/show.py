"""Open a report in the browser where there is a display, and say where it is."""

import os
import sys
import webbrowser
from pathlib import Path


def show(path: Path) -> None:
    """Print the report's address and open it if a browser can be shown."""
    print(f"open {path.resolve().as_uri()}")
    if os.environ.get("DISPLAY") or sys.platform in ("darwin", "win32"):
        webbrowser.open(path.resolve().as_uri())


if __name__ == "__main__":
    show(Path(sys.argv[1]))
