"""Programs that some tests need and that no Python package brings: Docker, Prometheus, nginx."""

import os
import shutil

import pytest

# Debian's PATH of a user has no sbin, where nginx and dockerd are.
PLACES = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"))
STRICT = "TESTS_REQUIRE_ALL"
"""Set where a test that cannot run is a failure and no skip: the CI, which installs all that is needed."""
EXEMPT = "TESTS_MAY_LACK"
"""Programs, with spaces between them, that may be missing all the same: those that the CI cannot bring everywhere."""


def lack(reason: str) -> None:
    """This test cannot run here: skip it, or fail where the environment says that every test must run."""
    if os.environ.get(STRICT):
        pytest.fail(f"{reason}, and {STRICT} is set", pytrace=False)
    pytest.skip(reason)


def needs(program: str) -> str:
    """The path of ``program``; without it the test is skipped, or fails where every test must run."""
    found = shutil.which(program, path=PLACES)
    if found is None:
        if program in os.environ.get(EXEMPT, "").split():
            pytest.skip(f"{program} is not installed, and {EXEMPT} names it")
        lack(f"{program} is not installed")
    assert found is not None
    return found
