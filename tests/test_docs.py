"""What the documents say is so."""

from __future__ import annotations

import importlib.util
import re
import shlex
from pathlib import Path

import cv2
import pytest

from fusematte.cli import COMMANDS, EXIT_CODES, build_parser
from fusematte.engine import errors
from tests.helpers import content, first_frame, make_clip

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
PAGES = sorted((ROOT / "docs").rglob("*.md"))
PRODUCT = [
    path
    for folder in ("engine", "training", "export", "src", "cpp_ext")
    for path in sorted((ROOT / folder).rglob("*.py"))
]
SNIPPETS = [
    pytest.param(page, code, id=f"{page.relative_to(ROOT)}-{number}")
    for page in (ROOT / "README.md", *PAGES)
    for number, code in enumerate(
        re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), re.DOTALL)
    )
]


@pytest.mark.usefixtures("small_network")
@pytest.mark.parametrize(("page", "code"), SNIPPETS)
def test_the_python_of_the_documents_runs(
    page: Path, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    clip = make_clip(tmp_path / "talk.mp4")
    make_clip(tmp_path / "beach.mp4").rename(tmp_path / "beach.jpg")  # a video by any name
    portrait = first_frame(clip).to_ndarray(format="bgr24")
    assert cv2.imwrite(str(tmp_path / "portrait.jpg"), portrait)
    exec(compile(code, str(page), "exec"), {})
    if "out.mp4" in code and "missing.mp4" not in code:
        assert content(tmp_path / "out.mp4").times == content(clip).times


def test_the_commands_of_the_documents_parse() -> None:
    documents = [README, *(path.read_text("utf-8") for path in PAGES)]
    text = "\n".join(documents)
    commands = re.findall(r"^(?:torchrun .* -m )?fusematte (.*?)(?: +#.*)?$", text, re.MULTILINE)
    assert len(commands) >= 4
    for synopsis in commands:
        command = re.sub(r"\|[\w-]+", "", synopsis)  # of alternatives the first
        words = shlex.split(command)
        build_parser(words).parse_args(words)


def test_the_exit_codes_are_documented() -> None:
    kinds = [k for k in vars(errors).values() if isinstance(k, type)]
    codes = {k.exit_code for k in kinds if issubclass(k, errors.FuseMatteError)} - {1}
    for code in codes | {errors.INTERRUPTED}:
        assert f"| {code} |" in README
        assert re.search(rf"\b{code} ", EXIT_CODES)


def test_the_environment_is_documented() -> None:
    """Each variable that the product reads or sets; those of its child processes are passed on."""
    page = (ROOT / "docs" / "environment.md").read_text("utf-8")
    found = set()
    for path in PRODUCT:
        code = path.read_text("utf-8")
        if "os.environ" in code and path.name != "build_engine.py":
            found |= set(re.findall(r'"([A-Z][A-Z0-9]+(?:_[A-Z0-9]+)+|RANK|DISPLAY)"', code))
    assert len(found) > 10
    assert {name for name in found if f"`{name}" not in page and f"${name}/" not in page} == set()


def test_the_architecture_names_what_exists() -> None:
    """Files and modules; in a row of the first table, also what is said to be in its files."""
    page = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    contributing = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    for name in re.findall(r"`([\w./-]+/[\w./-]*)`", page + contributing):
        is_example = "NAME" in name or "OUTPUT" in name
        assert is_example or (ROOT / name).exists() or (ROOT / "engine" / name).exists(), name
    rows = re.findall(r"^\| (.*?) \| (.*) \|$", page, re.MULTILINE)
    places = [row for row in rows if "engine/" in row[1]]
    assert len(places) > 8
    for question, answer in places:
        files = re.findall(r"`([\w/]+\.(?:py|md))`", answer)
        text = "\n".join((ROOT / file).read_text("utf-8") for file in files)
        for name in re.findall(r"`([A-Za-z_.]+)`", question + answer):
            if not name.endswith((".py", ".md")):
                assert all(part in text for part in name.split(".")), (question, name)
    packages = page.partition("## The packages")[2].partition("\n\n`cpp_ext`")[0]
    for names, contents in re.findall(r"^\| (`.*?`) \| (.*) \|$", packages, re.MULTILINE):
        folders = [ROOT / "engine" / name for name in re.findall(r"`(\w+)`", names)]
        for name in re.findall(r"`([a-z_]+)`", contents):
            assert any((folder / f"{name}.py").exists() for folder in folders), name


def test_links_within_the_repository_lead_somewhere() -> None:
    for document in (ROOT / "README.md", *PAGES):
        for link in re.findall(r"\]\(([^)#:]+)\)", document.read_text("utf-8")):
            assert (document.parent / link).exists(), f"{document.name}: {link}"


def test_the_pages_show_the_examples() -> None:
    """The formatter takes such a line for Python if it stands in a block of Python."""
    shown = [re.findall(r"^--8.*$", page.read_text("utf-8"), re.MULTILINE) for page in PAGES]
    lines = [line for page in shown for line in page]
    assert lines == ['--8<-- "gradio_app.py"']
    assert (ROOT / "examples" / "gradio_app.py").exists()


def test_every_page_is_in_the_navigation() -> None:
    """``mkdocs build --strict`` (``make site``) does not mind pages that nothing leads to."""
    navigation = (ROOT / "mkdocs.yml").read_text("utf-8").partition("\nnav:")[2]
    for page in PAGES:
        assert f": {page.relative_to(ROOT / 'docs').as_posix()}\n" in navigation + "\n"


def test_the_reference_has_every_command() -> None:
    spec = importlib.util.spec_from_file_location("hooks", ROOT / "docs" / "hooks.py")
    assert spec is not None and spec.loader is not None
    hooks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hooks)
    page = (ROOT / "docs/reference/command-line.md").read_text("utf-8")
    filled = hooks.on_page_markdown(page)
    for name in COMMANDS:
        assert f"## fusematte {name}\n" in filled
    assert "--light-wrap" in filled and "--feather" in filled


def test_the_tests_of_the_guarantees_exist() -> None:
    sources = {path: path.read_text("utf-8") for path in (ROOT / "tests").rglob("*.py")}
    page = (ROOT / "docs" / "reliability.md").read_text("utf-8")
    named = re.findall(r"`(?:([\w/]+\.py)(?:::(\w+))?|(test_\w+))`", page)
    assert len(named) > 60
    for file, test, bare in named:
        places = [text for path, text in sources.items() if path.as_posix().endswith(file)]
        assert any(f"def {test or bare}(" in text for text in places) if test or bare else places
