"""docs/deployment.md, held against compose.yaml: settings and variables as it shows them; no engine is needed."""

import re
import shutil
from pathlib import Path

import pytest
import yaml

from app.settings import PREFIX, unknown_variables
from tests.deployment.test_images import ROOT, SERVICES, VERSION
from tests.support.docker import compose_command, run
from tests.support.programs import needs

GUIDE = (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8")
OVERRIDE = GUIDE.partition("```yaml\n# compose.override.yaml\n")[2].partition("```")[0]


def environment(folder: Path, override: str, **variables: str) -> dict[str, str]:
    """The settings that the server gets by compose.yaml and an override file beside it, as Compose finds both."""
    needs("docker")
    shutil.copy(ROOT / "compose.yaml", folder)
    (folder / "compose.override.yaml").write_text(override, encoding="utf-8")
    outside = [f"{name}={value}" for name, value in variables.items()]
    done = run("env", f"--chdir={folder}", *outside, *compose_command(), "config", timeout=60)
    given = yaml.safe_load(done.stdout)["services"]["vae"]["environment"]
    return {name: value for name, value in given.items() if name.startswith(PREFIX) and value is not None}


def test_settings_in_the_override_file_win(tmp_path: Path) -> None:
    """Over the environment as over the defaults of compose.yaml; what it does not name stays as it was."""
    given = environment(tmp_path, OVERRIDE, VAE_MODELS_FOLDER="/other", VAE_MAX_BATCH="8")
    shown = dict(line.split("=") for line in yaml.safe_load(OVERRIDE)["services"]["vae"]["environment"])
    assert len(shown) > 2
    assert given == shown | {"VAE_MAX_BATCH": "8", "VAE_ACCESS_LOG": "true"}


@pytest.mark.parametrize("name", ["VAE_API_KEY", "VAE_MAX_WAITNG"])
def test_a_misspelled_setting_reaches_the_server_which_refuses_it(tmp_path: Path, name: str) -> None:
    given = environment(tmp_path, f"{OVERRIDE}      - {name}=1\n")
    assert given[name] == "1"
    ((unknown, nearest),) = unknown_variables(given)
    assert unknown == name
    assert nearest is not None


def test_the_variables_of_compose_yaml() -> None:
    used = {
        name: default
        for name, default in re.findall(r"\$\{(\w+):-([^}]*)\}", (ROOT / "compose.yaml").read_text("utf-8"))
        if name not in SERVICES["vae"]["environment"]
    }
    table = GUIDE.partition("These variables are `compose.yaml`'s own")[2].partition("\n\n")[2].partition("\n\n")[0]
    rows = [line.strip("|").split("|") for line in table.splitlines()[2:]]
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row[0])} == set(used)
    for names, default, _ in rows:
        for name in re.findall(r"`(\w+)`", names):
            assert "/" in used[name] or used[name] in default, name


def test_the_images_have_the_projects_version() -> None:
    shown = re.findall(r"\blatentserve(?:-gpu|-training)?:(\d[\w.]*)", GUIDE)
    assert len(shown) > 2
    assert set(shown) == {VERSION}


def test_what_is_ended_is_all_of_it() -> None:
    """Profiles are started by their names, or by those of their services; all of them are ended by one command."""
    profiles = {profile for service in SERVICES.values() for profile in service.get("profiles", [])}
    started = set(re.findall(r"docker compose --profile (\w+)", GUIDE))
    assert profiles - started == {"gpu", "train"}
    assert "docker compose --profile '*' down" in GUIDE


@pytest.mark.parametrize("line", re.findall(r"^(?:\w+=\S+ )*docker compose (?:[^#\n]* )?up .*$", GUIDE, re.MULTILINE))
def test_services_that_are_named_exist(line: str) -> None:
    words = line.partition(" up ")[2].partition("#")[0].split()
    named = [word for word in words if not word.startswith("-") and "=" not in word]
    assert set(named) <= SERVICES.keys()
    assert ("vae-gpu" in named) <= ("vae" not in named)
