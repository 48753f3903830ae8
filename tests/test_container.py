"""The container image and the compose file, as far as they can be checked without building them.

``make check-container`` builds the image and asks the server in it for its health.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

from fusematte.cli import build_parser

yaml = pytest.importorskip("yaml")

ROOT = Path(__file__).parents[1]
IGNORED = (ROOT / ".dockerignore").read_text("utf-8").splitlines()


def stages() -> dict[str, list[tuple[str, str]]]:
    """The instructions of every stage, with those of the stages it starts from."""
    text = re.sub(r"\\\n", " ", (ROOT / "Dockerfile").read_text("utf-8"))
    found: dict[str, list[tuple[str, str]]] = {}
    current: list[tuple[str, str]] = []
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        word, _, rest = line.strip().partition(" ")
        if word == "FROM":
            base, name = re.fullmatch(r"(\S+) AS (\S+)", rest).groups()  # type: ignore[union-attr]
            current = found[name] = list(found.get(base, []))
        else:
            current.append((word, rest.strip()))
    return found


def last(instructions: list[tuple[str, str]], word: str) -> str:
    return [rest for name, rest in instructions if name == word][-1]


def parses(words: list[str]) -> None:
    build_parser(words).parse_args(words)


@pytest.mark.parametrize("target", ["cpu", "nvidia"])
def test_the_image_serves_as_a_user_who_is_not_root(target: str) -> None:
    image = stages()[target]
    assert last(image, "USER") == "fusematte"
    assert json.loads(last(image, "ENTRYPOINT")) == ["fusematte"]
    parses(json.loads(last(image, "CMD")))
    health = last(image, "HEALTHCHECK").partition(" CMD ")[2]
    script = json.loads(health)[-1]
    compile(script, "health", "exec")
    assert f":{last(image, 'EXPOSE')}/api/health" in script


def test_the_image_gets_what_it_is_built_from_and_nothing_else() -> None:
    wanted = {line[1:] for line in IGNORED if line.startswith("!")}
    assert "*" in IGNORED
    assert all((ROOT / name).exists() for name in wanted)
    assert {"pyproject.toml", "setup.py", "engine", "cpp_ext", "src"} <= wanted
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    extras = re.findall(r"/src\[(.*?)\]", (ROOT / "Dockerfile").read_text("utf-8"))
    assert extras
    for extra in ",".join(extras).split(","):
        assert extra in project["project"]["optional-dependencies"]


def test_the_services_are_closed_and_start() -> None:
    compose: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text("utf-8"))
    assert set(compose["services"]) == {"server", "server-nvidia", "watcher"}
    for name, service in compose["services"].items():
        assert service["build"]["target"] in stages(), name
        assert service["read_only"] and service["cap_drop"] == ["ALL"]
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))
        parses(service.get("command", json.loads(last(stages()["cpu"], "CMD"))))
        named = [v.partition(":")[0] for v in service["volumes"] if not v.startswith(".")]
        assert set(named) <= set(compose["volumes"])


@pytest.mark.skipif(shutil.which("docker-compose") is None, reason="docker-compose is the judge")
def test_docker_compose_accepts_the_file() -> None:
    command = ["docker-compose", "-f", str(ROOT / "compose.yaml"), "config", "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
