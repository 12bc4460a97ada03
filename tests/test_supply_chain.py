"""What comes from elsewhere: each dependency has its reason, the data is all that is fetched."""

from __future__ import annotations

import configparser
import json
import pathlib
import re
import shutil
import subprocess
import sys

import pytest
import runs


def requirements() -> list[tuple[str, str]]:
    """The requirements in setup.cfg, each with the line before it."""
    lines = (runs.ROOT / "setup.cfg").read_text().splitlines()
    config = configparser.ConfigParser()
    config.read_string("\n".join(lines))
    wanted = config["options"]["install_requires"].splitlines()
    for extra in config["options.extras_require"].values():
        wanted += extra.splitlines()
    named = [line.strip() for line in wanted if line.strip()]
    return [(name, lines[[line.strip() for line in lines].index(name) - 1]) for name in named]


def test_every_dependency_has_its_reason_beside_it() -> None:
    found = requirements()
    assert len(found) > 10
    for requirement, before in found:
        assert re.match(r"\s+# .{10,}", before), f"setup.cfg does not say why {requirement}"


@pytest.mark.slow
def test_the_bill_of_materials_has_every_locked_package_with_its_hashes() -> None:
    if not (shutil.which("uv") or pathlib.Path(sys.executable).with_name("uv").exists()):
        pytest.skip("needs uv")
    bill = subprocess.run([runs.ROOT / "scripts" / "sbom.sh"], capture_output=True, text=True)
    if "Failed to fetch" in bill.stderr or "error sending request" in bill.stderr:
        pytest.skip("the package index cannot be reached")
    assert bill.returncode == 0, bill.stderr
    lock = (runs.ROOT / "requirements" / "cpu.txt").read_text()
    locked = set(re.findall(r"^([a-z0-9_.-]+)==([^ ;]+)", lock, re.MULTILINE))
    parts = json.loads(bill.stdout)["components"]
    assert {(part["name"], part["version"]) for part in parts} == locked
    assert all(part["externalReferences"][0]["hashes"] for part in parts)
    assert all(part["purl"].startswith("pkg:pypi/") for part in parts)
