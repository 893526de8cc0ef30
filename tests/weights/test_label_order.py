"""Orders of classes: the stored one is a permutation, and the one that the published names give."""

from __future__ import annotations

from pathlib import Path

import pytest

from hybridvideo.data.manifest import kinetics400_labels, label_names
from hybridvideo.errors import UserError
from hybridvideo.weights.label_order import UNIFORMER_KINETICS400, inverse, permutation


def test_the_stored_order_holds_every_class_once() -> None:
    assert sorted(UNIFORMER_KINETICS400) == list(range(400))


@pytest.mark.shared
def test_the_stored_order_is_that_of_the_names_which_the_authors_publish(shared: Path) -> None:
    theirs = label_names(shared / "data" / "annotations" / "k400_uniformer_order.txt")
    assert permutation(theirs, kinetics400_labels()) == UNIFORMER_KINETICS400
    assert permutation(kinetics400_labels(), theirs) == inverse(UNIFORMER_KINETICS400)


def test_a_permutation_puts_rows_of_one_order_into_the_other() -> None:
    theirs, ours = ["c", "a", "b"], ["a", "b", "c"]
    assert [theirs[place] for place in permutation(theirs, ours)] == ours


def test_spellings_of_a_name_are_the_same_name() -> None:
    theirs = ["Passing_American_football_(in_game)", "massaging persons head", "shaking hands"]
    ours = ["massaging person's head", "passing American football (in game)", "Shaking-hands"]
    assert permutation(theirs, ours) == (1, 0, 2)


@pytest.mark.parametrize(
    ("theirs", "ours", "message"),
    [
        (["jogging", "abseiling"], ["abseiling", "joging"], "'joging' is missing from the other list.*'jogging'"),
        (["a", "a"], ["a", "b"], "'a' appears 2 times"),
        (["a", "b"], ["a_b", "a b"], "'a b' appears 2 times"),
        (["a", "b"], ["a"], "2 classes, the other 1"),
    ],
)
def test_lists_of_other_classes_are_refused(theirs: list[str], ours: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        permutation(theirs, ours)


def test_the_inverse_undoes_an_order() -> None:
    order = (2, 0, 1)
    assert [order[place] for place in inverse(order)] == [0, 1, 2]
