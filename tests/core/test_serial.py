"""Text that any reader can read back."""

import csv
import json

from genloom.core.serial import to_csv, to_json


def test_numbers_that_are_not_finite_become_text() -> None:
    assert json.loads(to_json({"a": [float("inf"), {"b": float("nan")}]})) == {"a": ["inf", {"b": "nan"}]}


def test_tables_are_read_back_exactly() -> None:
    rows = [[0.1 + 0.2, -1e-17], [1.0, 2.0]]
    lines = list(csv.reader(to_csv(["x", "y"], rows, ["a, b", 'c"'], "class").decode().splitlines()))
    assert lines[0] == ["x", "y", "class"]
    assert [[float(cell) for cell in line[:2]] for line in lines[1:]] == rows
    assert [line[2] for line in lines[1:]] == ["a, b", 'c"']
    assert to_csv(["x"], [[1.5]], None).decode().splitlines() == ["x", "1.5"]
