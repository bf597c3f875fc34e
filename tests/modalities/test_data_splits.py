"""Splits: shares, classes, no copies across, keyed; fingerprints."""

import pytest
import torch
from torch import Tensor

from genloom.core.errors import DataError
from genloom.modalities.base import Split
from genloom.modalities.splits import divide, fingerprint, stratified


def numbered(count: int, classes: int | None = None) -> Split:
    labels = None if classes is None else torch.arange(count) * 7 % classes
    return Split(torch.arange(count, dtype=torch.float64)[:, None], labels)


def values(split: Split) -> set[float]:
    return set(split.items.flatten().tolist())


@pytest.mark.parametrize("count", [0, 1, 9, 33, 100])
def test_each_class_gives_its_share_to_within_one_item(count: int) -> None:
    labels = torch.tensor([0] * 70 + [1] * 25 + [2] * 5)[torch.randperm(100)]
    mask = stratified(labels, 100, count, 0, "test")
    assert int(mask.sum()) == count
    for label, size in enumerate((70, 25, 5)):
        assert abs(int(mask[labels == label].sum()) - size * count / 100) < 1


def test_the_choice_is_keyed() -> None:
    def mask(seed: int, name: str) -> Tensor:
        return stratified(None, 1_000, 500, seed, name)

    assert torch.equal(mask(0, "test"), mask(0, "test"))
    for other in (mask(1, "test"), mask(0, "valid")):
        assert 400 < int((mask(0, "test") ^ other).sum()) < 600


@pytest.mark.parametrize("classes", [None, 4])
def test_undivided_data_is_split_by_the_fractions(classes: int | None) -> None:
    whole = numbered(1_000, classes)
    found, notes = divide({"all": whole}, 0.2, 0.1, 3)
    assert {name: len(split) for name, split in found.items()} == {"train": 700, "valid": 100, "test": 200}
    assert set.union(*map(values, found.values())) == values(whole)
    assert notes == []
    if classes:
        for split in found.values():
            assert split.labels is not None
            assert split.labels.bincount().tolist() == [len(split) // 4] * 4
            assert torch.equal(split.labels, split.items[:, 0].long() * 7 % 4)


def test_a_given_test_split_is_kept_and_validation_cut_from_train() -> None:
    test = Split(-1 - torch.arange(50, dtype=torch.float64)[:, None])
    found, _ = divide({"train": numbered(1_000), "test": test}, 0.2, 0.1, 0)
    assert torch.equal(found["test"].items, test.items)
    assert (len(found["train"]), len(found["valid"])) == (900, 100)
    large, _ = divide({"train": numbered(60_000), "test": test}, 0.2, 0.1, 0)
    assert len(large["valid"]) == 5_000
    three = {"train": numbered(100), "valid": Split(test.items - 50), "test": test}
    assert {name: len(split) for name, split in divide(three, 0.2, 0.1, 0)[0].items()} == {
        "train": 100,
        "valid": 50,
        "test": 50,
    }


def test_copies_of_training_items_leave_valid_and_test() -> None:
    items = torch.cat([numbered(200).items, torch.full((20, 1), 7.0, dtype=torch.float64)])
    found, notes = divide({"all": Split(items)}, 0.2, 0.1, 0)
    assert not values(found["train"]) & (values(found["valid"]) | values(found["test"]))
    assert not values(found["valid"]) & values(found["test"])
    lost = 220 - sum(map(len, found.values()))
    assert lost > 0
    assert sum(int(note.split(": ")[1].split()[0]) for note in notes) == lost
    assert all("exact copies of training" in note for note in notes)


def test_a_given_test_split_loses_nothing_but_train_loses_its_copies() -> None:
    test = Split(torch.arange(95, 110, dtype=torch.float64)[:, None])
    found, notes = divide({"train": numbered(100), "test": test}, 0.2, 0.1, 0)
    assert torch.equal(found["test"].items, test.items)
    assert not values(test) & (values(found["train"]) | values(found["valid"]))
    assert len(found["train"]) + len(found["valid"]) == 95
    assert any("removed from train" in note for note in notes)


def test_rows_of_few_values_repeat_by_nature_and_stay() -> None:
    items = torch.randint(0, 2, (300, 3), generator=torch.Generator().manual_seed(0)).double()
    found, notes = divide({"all": Split(items)}, 0.2, 0.1, 0)
    assert sum(map(len, found.values())) == 300
    assert notes == ["90 valid and test items also occur in train: items here repeat by nature"]


def test_too_few_items() -> None:
    with pytest.raises(DataError, match="2 items are too few"):
        divide({"all": numbered(2)}, 0.2, 0.1, 0)


def test_fingerprints_follow_contents_labels_order_and_facts() -> None:
    one = numbered(10, 2)
    changed = Split(one.items + 1e-9, one.labels)
    prints = [
        fingerprint([one, one]),
        fingerprint([changed, one]),
        fingerprint([one, changed]),
        fingerprint([Split(one.items), one]),
        fingerprint([Split(one.items.reshape(5, 2), one.labels), one]),
        fingerprint([one, one], "dynamic"),
    ]
    assert len(set(prints)) == len(prints)
    assert prints[0] == fingerprint([numbered(10, 2), numbered(10, 2)])
    assert all(len(p) == 16 and int(p, 16) >= 0 for p in prints)
