"""Packages of npm and Debian that the apps' tests run with, fetched once for the whole suite."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from filelock import FileLock

from tests.devices.services import ROOT

APPS = ROOT / "apps"
KOTLIN = "kotlin-compiler@2.4.20"
_JAVA = Path("/usr/share/java")


def npm(*arguments: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run npm; its output is in the failure."""
    done = subprocess.run(
        ["npm", *arguments], cwd=cwd, capture_output=True, text=True, check=False, env={**os.environ, **env}
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done


def debian(*packages: str) -> None:
    """Install what is not there."""
    if os.geteuid() != 0:
        pytest.skip("only root can install Debian packages")
    with FileLock("/tmp/edgevit-apt.lock"):
        command = ["dpkg-query", "--show", "--showformat", "${Status}\\n", *packages]
        known = subprocess.run(command, capture_output=True, text=True, check=False)
        if known.stdout.count("install ok installed") == len(packages):
            return
        subprocess.run(["apt-get", "update", "-qq"], check=True, stdout=subprocess.DEVNULL)
        install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages]
        subprocess.run(install, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def node_modules(shared: Path) -> Path:
    """What `npm install` puts into the web app."""
    home = shared / "web-packages"
    with FileLock(str(shared / "web-packages.lock")):
        if not (home / "node_modules/.package-lock.json").is_file():
            home.mkdir(exist_ok=True)
            for name in ("package.json", "package-lock.json"):
                shutil.copy(APPS / "web" / name, home / name)
            npm("ci", "--no-audit", "--no-fund", "--ignore-scripts", cwd=home)
    return home / "node_modules"


def kotlin(shared: Path) -> Path:
    """Folder of the Kotlin compiler's libraries, from npm."""
    debian("default-jre-headless", "libandroid-json-org-java", "junit4")
    home = shared / "kotlin"
    with FileLock(str(shared / "kotlin.lock")):
        if not (home / "package/lib").is_dir():
            home.mkdir(exist_ok=True)
            npm("pack", "--silent", KOTLIN, cwd=home)
            packed = next(home.glob("*.tgz"))
            subprocess.run(["tar", "-xzf", packed, "-C", home], check=True)  # never outside; Python only from 3.11.4
            packed.unlink()
    return home / "package/lib"


def compile_kotlin(sources: list[Path], out: Path, shared: Path) -> str:
    """Compile to classes; returns the class path to run them with."""
    libraries = kotlin(shared)
    names = ("compiler", "stdlib", "reflect", "script-runtime")
    compiler = [libraries / f"kotlin-{name}.jar" for name in names]
    compiler += [libraries / "annotations-13.0.jar", libraries / "kotlinx-coroutines-core-jvm.jar"]
    beside = [_JAVA / name for name in ("json-android.jar", "junit4.jar", "hamcrest-core.jar")]
    path = ":".join(map(str, [libraries / "kotlin-stdlib.jar", *beside]))
    command = ["java", "-cp", ":".join(map(str, compiler)), "org.jetbrains.kotlin.cli.jvm.K2JVMCompiler"]
    command += ["-no-stdlib", "-no-reflect", "-cp", path, "-d", str(out), *map(str, sources)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return f"{out}:{path}"
