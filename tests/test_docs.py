"""README and docs hold what they promise: commands parse, links lead somewhere, Python runs, the map is complete."""

from __future__ import annotations

import ast
import inspect
import re
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import hybridvideo as hv
from hybridvideo import cli
from hybridvideo.config.training import TrainRun
from hybridvideo.parsing import parsed
from tests.engine.training.runs import TINY_MODEL
from tests.videos import write_video

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))
RUN_HERE = ("README.md", "data.md", "bulk.md")  # pages whose Python needs no weights from elsewhere

FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
OURS = re.compile(r"(?:^|[\s/])hybridvideo ([a-z]\w*)(.*)")
PATH = re.compile(r"(?<![\w./-])(?:hybridvideo|docs|configs|tests|tools|examples|data)/[\w./*-]*\w")


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def fenced(page: Path, language: str) -> list[str]:
    """The code blocks of a language."""
    return [text for name, text in FENCE.findall(page.read_text()) if name == language]


def lines_of_code(page: Path) -> list[str]:
    """Lines of indented blocks, and code within sentences; a line continued by a backslash is one."""
    if page.suffix == ".yaml":
        return [line.removeprefix("#").strip() for line in page.read_text().splitlines() if line.startswith("#   ")]
    text = FENCE.sub("", page.read_text()).replace("\\\n", " ")
    indented = [line.strip() for line in text.splitlines() if line.startswith("    ")]
    prose = "\n".join(line for line in text.splitlines() if not line.startswith("    "))
    return indented + [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose)]


def commands(page: Path) -> list[tuple[str, list[str]]]:
    """Each `hybridvideo NAME ...` of a page, up to a comment, a pipe or a redirection."""
    found = []
    for name, rest in (match.groups() for line in lines_of_code(page) for match in [OURS.search(line)] if match):
        words = shlex.split(rest, comments=True)
        end = next((i for i, word in enumerate(words) if word in ("|", ">", "&&", ";")), len(words))
        found.append((name, words[:end]))
    return found


EXAMPLES = [(page, *command) for page in PAGES + CONFIGS for command in commands(page)]


@pytest.mark.parametrize(
    ("page", "name", "arguments"),
    EXAMPLES,
    ids=[f"{page.name}: {name} {' '.join(rest)}" for page, name, rest in EXAMPLES],
)
def test_every_command_in_the_documents_parses(
    page: Path,
    name: str,
    arguments: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert name in cli.COMMANDS, name
    if not arguments:
        return  # the command is only named
    (tmp_path / "RUN").mkdir()
    (tmp_path / "RUN" / "config.yaml").write_text("{}\n")
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    if {"--help", "--print-config"} & set(arguments):
        with pytest.raises(SystemExit) as done:  # as the program does
            sys.exit(cli.main([name, *arguments]))
        assert done.value.code == 0 and capsys.readouterr().out
    else:
        assert cli.parse(name, arguments)


def test_the_documents_spell_out_every_command() -> None:
    assert {name for _, name, _ in EXAMPLES} == set(cli.COMMANDS)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_option_of_a_tool_and_every_make_target_exists(page: Path) -> None:
    for line in lines_of_code(page):
        for tool, rest in re.findall(r"python (?:-m )?(tools[/.]\w+)(?:\.py)?(.*)", line):
            source = (ROOT / f"{tool.replace('.', '/')}.py").read_text()
            for option in re.findall(r"(--[a-z][\w-]*)", rest.split(" -- ")[0].split("#")[0]):
                assert f'"{option}"' in source, f"{option} of {tool}"
        for target in re.findall(r"^make ([\w-]+)", line):
            assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE), line


def slug(heading: str) -> str:
    """The anchor that GitHub makes of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_relative_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    text = FENCE.sub("", page.read_text())
    links = re.findall(r"\]\(([^)\s]+)\)|^\[[^\]]+\]: (\S+)|<img src=\"([^\"]+)\"", text, re.MULTILINE)
    for link in map("".join, links):
        if not link.startswith(("http:", "https:")):
            path, _, anchor = link.partition("#")
            target = page.parent / path if path else page
            assert target.exists(), f"{page.name}: {link}"
            headings = map(slug, re.findall(r"^#+ (.+)", target.read_text(), re.MULTILINE)) if anchor else ()
            assert not anchor or anchor in headings, f"{page.name}: {link}"


@pytest.mark.parametrize("page", PAGES + CONFIGS, ids=name_of)
def test_every_file_of_this_repository_that_is_named_exists(page: Path) -> None:
    for path in PATH.findall(page.read_text()):
        assert any(ROOT.glob(path)), f"{page.name} names {path}"


def test_the_map_names_every_room_and_no_other() -> None:
    tree = (ROOT / "docs" / "design.md").read_text().partition("## The map")[2].partition("\n## ")[0]
    named = set(re.findall(r"^    +(\w+)/  ", tree, re.MULTILINE))
    rooms = {file.parent.name for file in (ROOT / "hybridvideo").rglob("__init__.py")} - {"hybridvideo"}
    assert rooms <= named and all((ROOT / name).is_dir() for name in named - rooms)


def test_the_readme_is_one_page_of_ordinary_width() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 120
    assert max(map(len, lines)) <= 100


def test_pictures_are_small() -> None:
    assert all(picture.stat().st_size < 250_000 for picture in (ROOT / "docs" / "images").iterdir())


# ---- Python and YAML -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_python_in_the_documents_uses_public_names_and_their_arguments(page: Path) -> None:
    for block in fenced(page, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "hv":
                assert node.attr in hv.__all__
            if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("hv."):
                signature = inspect.signature(getattr(hv, ast.unparse(node.func)[3:]))
                signature.bind(*node.args, **{word.arg: None for word in node.keywords if word.arg})


@pytest.mark.parametrize("name", RUN_HERE)
def test_python_in_the_documents_runs(
    name: str, motion: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    page = next(page for page in PAGES if page.name == name)
    blocks = fenced(page, "python")
    assert blocks
    shutil.copytree(motion / "train", "videos/train")
    classes = sorted(path.name for path in Path("videos/train").iterdir())
    changes: dict[str, Any] = {**TINY_MODEL["changes"], "num_frames": 4, "image_size": 16}  # type: ignore[dict-item]
    hv.create_model("hybrid", len(classes), **changes).save("runs/demo/hybrid", labels=classes)
    for file in ("a.mp4", "b.mkv", "clip.mp4"):
        write_video(Path(file), frames=125, fps=25)
    for block in blocks:
        exec(compile(block, name, "exec"), {})
    assert capsys.readouterr().out


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_yaml_in_the_documents_is_a_config(page: Path) -> None:
    for block in fenced(page, "yaml"):
        settings = parsed(TrainRun, yaml.safe_load(block), page.name)
        changes = {**settings.model.changes}
        changes["stem"] = {**changes.get("stem", {}), "weights": None}
        assert hv.create_model(settings.model.name, 2, **changes).num_classes == 2
