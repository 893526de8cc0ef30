"""The cards in data/: each follows the schema, cites its sources, and agrees with the code it describes."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path

import pytest

from hybridvideo import cli
from hybridvideo.data.manifest import kinetics400_labels, read_manifest
from hybridvideo.data.synthetic import CLASSES, render_clip, render_dataset
from hybridvideo.errors import UserError
from hybridvideo.tasks.demo import RUN, VIDEOS
from tools.data_cards import FOLDER, README, Card, read_card, read_cards, with_table

ROOT = Path(__file__).resolve().parents[1]
CARDS = {card.name: card for card in read_cards()}
WANTED = {
    "charades", "diving48", "epic_kitchens_100", "hmdb51", "jester", "kinetics400", "kinetics600", "kinetics700",
    "moments_in_time", "motion", "something_something_v2", "ucf101",
}  # fmt: skip
PATHS = re.compile(r"\bhybridvideo/[\w/.]+\w")
every_card = pytest.mark.parametrize("card", CARDS.values(), ids=CARDS.keys())


def test_there_is_a_card_for_each_data_set_that_people_use() -> None:
    assert set(CARDS) == WANTED


@every_card
def test_a_card_is_named_like_its_file_and_says_all_there_is_to_know(card: Card) -> None:
    assert (FOLDER / f"{card.name}.yaml").is_file()
    for field in ("title", "seconds", "fps", "size", "licence", "citation"):
        assert getattr(card, field).strip(), field
    assert card.splits and all(count > 0 for count in card.splits.values())
    assert card.protocol and card.pitfalls and card.sources and card.prepare.today
    assert card.annotations.files and card.annotations.columns and card.annotations.example


@every_card
def test_a_card_has_a_count_of_classes_unless_it_has_two_kinds(card: Card) -> None:
    assert (card.classes.count is None) == (card.task == "verb and noun")
    assert not card.classes.listed or len(set(card.classes.listed)) == card.classes.count


@every_card
def test_a_card_cites_addresses_or_files_that_exist(card: Card) -> None:
    for place in (card.home, *card.sources, *card.download):
        assert re.fullmatch(r"https?://[^\s]+\.[^\s]+", place) or (ROOT / place).is_file(), place
    text = (FOLDER / f"{card.name}.yaml").read_text(encoding="utf-8")
    for path in PATHS.findall(text):
        assert (ROOT / path).exists() or "://" in text[: text.index(path)].rpartition(" ")[2], path


@every_card
def test_what_is_unverified_names_a_field(card: Card) -> None:
    for remark in card.unverified:
        named = re.findall(r"(\w+)(?:, \w+)*(?: and \w+)?:", remark)
        assert named and named[0] in Card.__dataclass_fields__, remark


def test_an_unknown_field_a_missing_one_and_one_of_another_type_are_refused(tmp_path: Path) -> None:
    text = (FOLDER / "motion.yaml").read_text(encoding="utf-8")
    for changed, fault in (
        (text + "colour: red\n", "colour"),
        (text.replace("citation: none\n", ""), "citation"),
        (text.replace("{train: 1024", "{train: many"), "many"),
        (text.replace("task: single-label", "task: guess"), "guess"),
    ):
        (tmp_path / "card.yaml").write_text(changed, encoding="utf-8")
        with pytest.raises(UserError, match=fault):
            read_card(tmp_path / "card.yaml")


def test_the_table_in_the_readme_is_that_of_the_cards() -> None:
    text = README.read_text(encoding="utf-8")
    assert with_table(text, list(CARDS.values())) == text, "run `python -m tools.data_cards`"
    assert all(f"]({name}.yaml)" in text for name in CARDS)


# ---- cards and code --------------------------------------------------------------------------------------------------


def test_kinetics_400_has_the_labels_that_ship() -> None:
    card = CARDS["kinetics400"]
    assert card.classes.count == len(kinetics400_labels())
    label, *_ = card.annotations.example.split(",")
    assert label in kinetics400_labels()


@pytest.mark.parametrize("name", ["kinetics400", "kinetics600", "kinetics700"])
def test_the_columns_of_kinetics_are_read_as_they_are(name: str, tmp_path: Path) -> None:
    columns = ",".join(CARDS[name].annotations.columns)
    (tmp_path / "val.csv").write_text(f"{columns}\nabseiling,0wR5jVB-WPk,417,427,val{',0' * ('is_cc' in columns)}\n")
    manifest = read_manifest(tmp_path / "val.csv", root=tmp_path)
    assert manifest.labels == ("abseiling",) and manifest.rows[0].path == "0wR5jVB-WPk_000417_000427.mp4"


@pytest.mark.parametrize("name", ["something_something_v2", "diving48"])
def test_json_annotations_are_refused_as_the_cards_say(name: str, tmp_path: Path) -> None:
    assert "refused" in CARDS[name].prepare.today
    (tmp_path / "train.json").write_text(f"[{CARDS[name].annotations.example}]")
    with pytest.raises(UserError):
        read_manifest(tmp_path / "train.json")


def default_seed() -> int:
    command = cli.COMMANDS["demo"]
    seed: int = inspect.signature(getattr(command, "function", command)).parameters["seed"].default
    return seed


def test_the_demo_makes_the_set_of_its_card() -> None:
    card = CARDS["motion"]
    assert card.generated is not None and tuple(card.classes.listed) == tuple(sorted(CLASSES))
    assert card.generated.per_class == VIDEOS
    assert card.splits == {split: count * len(CLASSES) for split, count in VIDEOS.items()}
    room, _, function = card.generated.generator.rpartition(".")
    assert getattr(importlib.import_module(room), function) is render_dataset
    assert card.generated.command == "hybridvideo demo" and card.generated.seed == default_seed()
    assert RUN.augment.flip == 0 and f"{RUN.eval.clips} clips and {RUN.eval.crops} crop" in card.protocol[0]


def test_the_demos_videos_have_the_rates_and_lengths_of_their_card() -> None:
    card = CARDS["motion"]
    shortest, longest = map(float, card.seconds.split(" to "))
    clips = [render_clip("left", seed=0, split="val", number=number)[:2] for number in range(24)]
    assert {str(rate) for _, rate in clips} == set(re.findall(r"\d+", card.fps))
    assert all(shortest - 1 / rate <= len(frames) / rate <= longest + 1 / rate for frames, rate in clips)
