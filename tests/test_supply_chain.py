"""What comes from elsewhere: reasons, hashes, and the bill of materials."""

from __future__ import annotations

import configparser
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest
import runs
from packaging.requirements import Requirement

LOCKS = ("cpu", "gpu", "dev")


def lock(name: str) -> str:
    return (runs.ROOT / "requirements" / f"{name}.txt").read_text()


def pins(name: str) -> dict[tuple[str, str], str]:
    """Returns a lock's versions by package and marker."""
    lines = re.findall(r"^([\w.-]+)==(\S+)(?: ; (.*?))? \\$", lock(name), re.MULTILINE)
    return {(package, marker): version for package, version, marker in lines}


def requirements(*extras: str) -> list[str]:
    """Returns the lines of setup.cfg that name the package's requirements and those of extras."""
    config = configparser.ConfigParser()
    config.read(runs.ROOT / "setup.cfg")
    texts = [config["options"]["install_requires"]]
    texts += [config["options.extras_require"].get(extra, "") for extra in extras]
    return [line for text in texts for line in text.splitlines() if line]


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_follows_from_setup_cfg_and_has_hashes_and_no_address(name: str) -> None:
    assert pins("cpu").items() <= pins(name).items()
    for requirement in map(Requirement, requirements(name)):
        versions = [v for (package, _), v in pins(name).items() if package == requirement.name]
        assert versions, requirement
        assert all(requirement.specifier.contains(version) for version in versions), requirement
    entries = re.split(r"^(?=[\w.-]+==)", lock(name), flags=re.MULTILINE)[1:]
    assert len(entries) == len(pins(name))
    assert all("--hash=sha256:" in entry for entry in entries)
    assert not re.search("://|--find-links", lock(name))


@pytest.mark.slow
def test_the_bill_of_materials_has_every_locked_package_with_its_hashes() -> None:
    bin_directory = pathlib.Path(sys.executable).parent
    if not shutil.which("uv", path=f"{bin_directory}{os.pathsep}{os.environ['PATH']}"):
        pytest.skip("needs uv")
    bill = subprocess.run([runs.ROOT / "scripts/sbom.sh"], capture_output=True, text=True)
    if "Failed to fetch" in bill.stderr or "error sending request" in bill.stderr:
        pytest.skip("the package index cannot be reached")
    assert bill.returncode == 0, bill.stderr
    parts = json.loads(bill.stdout)["components"]
    locked = {(package, version) for (package, _), version in pins("cpu").items()}
    assert {(part["name"], part["version"]) for part in parts} == locked
    assert all(part["externalReferences"][0]["hashes"] for part in parts)
    assert all(part["purl"].startswith("pkg:pypi/") for part in parts)
