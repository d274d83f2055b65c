"""What the documents say is what the code does: tables, file tree, links, commands, the OpenAPI document, examples."""

import argparse
import re
import shlex
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from pkgutil import resolve_name
from urllib.parse import unquote

import orjson
import pytest
import typer

from app.documentation import main as print_openapi
from tests.support.repository import tracked
from tests.support.tables import TABLES, written
from training.config import load
from training.data.load import DEFAULT_FOLDER
from vae import cli

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def documents() -> list[Path]:
    return [file for file in tracked() if file.suffix == ".md" and "pretrained" not in file.parts]


@pytest.mark.parametrize("name", TABLES)
def test_the_tables_of_the_readme(name: str) -> None:
    assert written(name, README) == TABLES[name](), "the code changed: make docs"


def test_openapi_json(capsys: pytest.CaptureFixture[str]) -> None:
    print_openapi()
    committed = (ROOT / "openapi.json").read_text(encoding="utf-8")
    assert orjson.loads(committed) == orjson.loads(capsys.readouterr().out), "the interface changed: make openapi"


def test_the_file_tree_of_the_readme() -> None:
    tree = README.partition("## What is where")[2].partition("```")[2].partition("```")[0].strip("\n")
    folder = ""
    for line in tree.splitlines():
        indented, name = line.startswith(" "), line.split()[0]
        folder = folder if indented else name
        assert (ROOT / (folder if indented else "") / name).exists(), line
        assert (ROOT / (folder if indented else "") / name).is_dir() == name.endswith("/"), line


@pytest.mark.parametrize("file", documents(), ids=lambda file: str(file.relative_to(ROOT)))
def test_links_lead_somewhere(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    headings = {
        re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-")
        for heading in re.findall(r"^#+ +(.+)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    }
    for target in re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:src|href)="([^"]+)"', text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, fragment = unquote(target).partition("#")
        assert not path or (file.parent / path).exists(), target
        assert path or fragment in headings, target


@pytest.mark.parametrize("file", documents(), ids=lambda file: str(file.relative_to(ROOT)))
def test_files_that_are_named_exist(file: Path) -> None:
    """A path in backticks that begins with a folder of ours is a file of ours."""
    for name in re.findall(
        r"`((?:app|model|training|tests|docs|docker|benchmarks|\.ci)/[\w./-]+)`", file.read_text("utf-8")
    ):
        assert (ROOT / name).exists(), name


def test_theory_names_functions_and_tests_that_exist() -> None:
    """Every equation of docs/theory.md names what computes it and what checks it."""
    text = (ROOT / "docs" / "theory.md").read_text(encoding="utf-8")
    functions = re.findall(r"`((?:model|training|app|benchmarks)(?:\.\w+)+)`", text)
    tests = re.findall(r"`(tests/[\w/]+\.py)::([\w:]+)`", text)
    assert len(re.findall(r"^- computed by ", text, re.MULTILINE)) == len(
        re.findall(r"^- checked ", text, re.MULTILINE)
    )
    assert len(functions) > 20
    assert len(tests) > 40
    for name in functions:
        assert callable(resolve_name(name)), name
    for file, path in tests:
        source = (ROOT / file).read_text(encoding="utf-8")
        *classes, function = path.split("::")
        assert re.search(rf"^ *def {function}\(", source, re.MULTILINE), path
        assert all(re.search(rf"^class {each}\b", source, re.MULTILINE) for each in classes), path


NAME = r"(?:van den )?[A-Z][\w-]+"
CITATION = re.compile(rf"({NAME}(?:, {NAME})*(?: and {NAME})?)( et al\.)?(?:, | \()((?:19|20)\d\d)\b")


def citations(text: str) -> set[tuple[str, ...]]:
    """Authors and year of each, with "et al." for those that are not named."""
    found = CITATION.findall(" ".join(text.split()))
    return {
        (*re.split(", | and ", names), *([others.strip()] if others else []), year) for names, others, year in found
    }


def cites(citation: tuple[str, ...], entry: tuple[str, ...]) -> bool:
    """Whether a citation is of an entry of the list: all authors, or the first of three or more and "et al."."""
    return citation == entry or (len(entry) > 3 and citation == (entry[0], "et al.", entry[-1]))


def test_citations_are_found_in_every_form() -> None:
    text = "(Al, 2001; Bo and Cy,\n2002.) As De et al. (2003); van den Ek et al., 2004; Fu, Go and Hö-La (2005)."
    assert citations(text) == {
        ("Al", "2001"), ("Bo", "Cy", "2002"), ("De", "et al.", "2003"), ("van den Ek", "et al.", "2004"),
        ("Fu", "Go", "Hö-La", "2005"),
    }  # fmt: skip
    assert cites(("De", "et al.", "2003"), ("De", "Bo", "Cy", "2003"))
    assert not cites(("De", "et al.", "2003"), ("De", "Bo", "2003"))
    assert not cites(("De", "et al.", "2003"), ("De", "Bo", "Cy", "2004"))


def test_theory_cites_what_it_lists_and_lists_what_it_cites() -> None:
    text, _, listed = (ROOT / "docs" / "theory.md").read_text(encoding="utf-8").partition("\n## References\n")
    lines = re.findall(r"^- (.+?) \((\d{4})\)\. ", listed, re.MULTILINE)
    entries = [(*authors.split(", "), year) for authors, year in lines]
    assert len(entries) == len(set(entries)) == len(re.findall(r"^- ", listed, re.MULTILINE)) > 40
    cited = citations(text)
    assert [entry for entry in entries if not any(cites(citation, entry) for citation in cited)] == []
    assert {citation for citation in cited if sum(cites(citation, entry) for entry in entries) != 1} == set()


def commented() -> list[Path]:
    """Files whose comments show commands."""
    return [ROOT / "compose.yaml", *sorted((ROOT / "docker").glob("*Dockerfile"))]


def shown_commands(text: str) -> list[str]:
    """What `vae` is told in a text: on lines of its own, within sentences, and through Docker and Compose."""
    text = re.sub(r"\\\n#? *", "", text)
    own = re.findall(r"^(?:[#$] +)?(?:\.venv(?:-dev)?/bin/)?vae +(\w.*)$", text, re.MULTILINE)
    within = re.findall(r"`(?:\.venv(?:-dev)?/bin/)?vae +([^`]+)`", text)
    composed = re.findall(r"docker compose run (?:[^`\n]*? )??(?:vae|vae-gpu|train) +(\w[^`\n]*)", text)
    run = re.findall(r"docker run [^`\n]* latentserve(?:-\w+)?(?::\S+)? +(\w[^`\n]*)", text)
    return [line for line in (*own, *within, *composed, *run) if "COMMAND" not in line]


@pytest.mark.parametrize("file", documents() + commented(), ids=lambda file: str(file.relative_to(ROOT)))
def test_commands_that_are_shown_exist(file: Path) -> None:
    """Each is a command, with options that it has and values that configurations take."""
    for line in shown_commands(file.read_text("utf-8")):
        words = shlex.split(line, comments=True)
        command = typer.main.get_command(cli)
        while words and words[0] in vars(command).get("commands", {}):
            command = vars(command)["commands"][words.pop(0)]
        assert "commands" not in vars(command), line
        known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        assert {word.partition("=")[0] for word in words if word.startswith("-")} <= known | {"--help"}, line
        changes = [value for option, value in pairwise(words) if option == "--set"]
        if changes:
            load(ROOT / "training" / "configs" / f"{words[0]}.toml", changes)


def test_commands_are_found_where_they_are_shown() -> None:
    guide = shown_commands((ROOT / "docs" / "deployment.md").read_text("utf-8"))
    assert "doctor" in guide
    assert any(line.startswith("bundle verify") for line in guide)
    assert any("device=cuda" in line for line in guide)
    assert any("data.path=/data/my-pictures" in line for line in guide)


def shown_benchmarks(text: str) -> list[tuple[str, str | None]]:
    """Modules of `benchmarks` that a text starts, by themselves or through make, and what each is told; None where a
    sentence only names one."""
    text = re.sub(r"\\\n *", "", text)
    within = [(name, told.strip() or None) for name, told in re.findall(r"`python -m (benchmarks\.\w+)([^`]*)`", text)]
    own = re.findall(r"^[ \w./-]*(?<!`)python -m (benchmarks\.\w+)( .*)?$", text, re.MULTILINE)
    made = re.findall(r'make bench(-training)? ARGS="([^"]*)"', text)
    return within + own + [(f"benchmarks.{'training' if kind else 'serving'}", told) for kind, told in made]


class Understood(Exception):
    """A command line was parsed: what comes next would be the benchmark."""


def understand(module: str, told: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a benchmark parse what it is told, if it is, and do nothing else; argparse exits where it cannot."""
    parse = argparse.ArgumentParser.parse_args

    def only_parse(parser: argparse.ArgumentParser, *_: object) -> None:
        if told is not None:
            parse(parser, shlex.split(told, comments=True))
        raise Understood

    main = import_module(module).main
    with monkeypatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", only_parse)
        with pytest.raises(Understood):
            main()


def starting() -> list[Path]:
    return documents() + sorted((ROOT / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("file", starting(), ids=lambda file: str(file.relative_to(ROOT)))
def test_benchmarks_that_are_shown_exist(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is a module, with options that it has and values that they take."""
    for module, told in shown_benchmarks(file.read_text("utf-8")):
        understand(module, told, monkeypatch)


def test_benchmarks_are_found_where_they_are_shown() -> None:
    results = dict(shown_benchmarks((ROOT / "docs" / "results.md").read_text("utf-8")))
    assert results.keys() >= {f"benchmarks.{name}" for name in ("anomaly", "likelihood", "pieces", "steps", "training")}
    assert "--others" in str(results["benchmarks.anomaly"])
    text = "`python -m benchmarks.one` and `python -m benchmarks.two\n-k 3`:\n\n.venv/bin/python -m benchmarks.three"
    assert shown_benchmarks(text) == [("benchmarks.one", None), ("benchmarks.two", "-k 3"), ("benchmarks.three", "")]


@pytest.mark.parametrize("told", ["--data-die data", "--images many", "runs/mnist"])
def test_a_benchmark_that_cannot_be_started_so_is_noticed(
    told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        understand("benchmarks.anomaly", told, monkeypatch)
    assert "error: " in capsys.readouterr().err


@pytest.mark.parametrize("file", documents(), ids=lambda file: str(file.relative_to(ROOT)))
def test_data_lie_in_one_place(file: Path) -> None:
    """The folder of data is data/, where nothing else is said; MNIST is in data/mnist/, where training looks for it."""
    text = file.read_text("utf-8")
    assert set(re.findall(r"--data-dir (\S+)", text)) <= {"data", "data`"}
    for folder, name in re.findall(r"\b(data/(?:\w+/)*)(t10k-\w+|train-\w+)", text):
        assert folder == f"{DEFAULT_FOLDER}/mnist/", name


def test_make_targets_that_are_shown_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for file in documents():
        shown = set(re.findall(r"(?:^|`)make ([a-z-]+)", file.read_text(encoding="utf-8"), re.MULTILINE))
        assert shown <= targets, (file, shown - targets)


def test_make_help_lists_every_target() -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    phony = set(text.partition(".PHONY:")[2].partition("\n")[0].split())
    assert phony == set(re.findall(r"^([a-z-]+):[^#\n]*## \S", text, re.MULTILINE))


def test_no_place_of_one_machine() -> None:
    """No file names a folder of one machine, or an index of packages."""
    words = re.compile(rb"/(?:root|work|opt)/\w|index-url|find-links|pypi\.org|pythonhosted|download\.pytorch")
    for file in tracked():
        if file == Path(__file__) or file.suffix in (".png", ".onnx", ".npz", ".gif", ".webp", ".jpg", ".safetensors"):
            continue
        found = words.search(file.read_bytes())
        assert found is None, f"{file.relative_to(ROOT)}: {found.group().decode() if found else ''}"


def test_every_constraint_is_one_version() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9.-]+==[0-9][0-9a-z.]*", line) for line in lines)
    names = [line.partition("==")[0] for line in lines]
    assert names == sorted(names)
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    required = set(re.findall(r'^    "([a-zA-Z0-9-]+)>=', project, re.MULTILINE))
    assert {name.lower() for name in required} <= set(names)
