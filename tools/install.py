"""Make .venv, the project's environment: requirements.txt in the versions of constraints.txt.

Run as: python3 tools/install.py [--keep] [--fresh] [--cuda cpu|12.6|12.9|13.0]   (make install)
        python3 tools/install.py --constraints                                  (make constraints)

.venv is a link into .venvs/. A new environment is built there beside the old one; the link is
switched when everything is installed, and only then is the old one deleted. Whether a new one is
needed is decided by content (requirements, constraints, Python, PyTorch's build), not by clocks.
It runs before anything is installed, so it needs the standard library alone.
"""

from __future__ import annotations  # so that older Pythons get as far as the message

import argparse
import contextlib
import fcntl
import hashlib
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

LINK, ENVIRONMENTS = Path(".venv"), Path(".venvs")
RECORD = "environment.json"  # what an environment was made from, and the proof that it is ours
REQUIREMENTS, CONSTRAINTS = Path("requirements.txt"), Path("constraints.txt")
FOR_DVC = Path("tools/dvc_utf8.py")
REMOTES = Path("requirements-remotes.txt")
INDEX = "https://download.pytorch.org/whl/"
DEMANDED_BY_TORCH = re.compile(r"(nvidia-(?!ml-py)|cuda-|triton)")

# PyTorch's builds: the oldest driver, the lowest and the highest compute capability. The first that
# fits is taken; 13.0 is PyPI's own. Drivers for Linux, by docs.nvidia.com/cuda/
# cuda-toolkit-release-notes, table 3, CUDA 12.0 and 13.0: from there on a driver runs any CUDA of
# that major version (docs.nvidia.com/deploy/cuda-compatibility, "Minor Version Compatibility").
# Capabilities, by github.com/pytorch/pytorch, RELEASE.md, "CUDA Support Matrix". CUDA 12.9 is not
# there, but 2.13.0+cu129 is published; it has the architectures of the build for 13.0.
BUILDS = {
    "13.0": ((580, 65, 6), 7.5, math.inf),
    "12.6": ((525, 60, 13), 5.0, 9.0),
    "12.9": ((525, 60, 13), 7.5, math.inf),
}


def read_gpus() -> list[tuple[str, float]]:
    """Driver version and compute capability of each GPU, from nvidia-smi; [] where none answers."""
    for fields in ("driver_version,compute_cap", "driver_version"):  # old drivers lack the second
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"]
            done = subprocess.run(command, capture_output=True, text=True, timeout=60)
            rows = re.findall(r"^(\d[\d.]*)(?:, *(\d[\d.]*))?", done.stdout, re.M)
            if done.returncode == 0 and rows:  # capability unknown: one that all builds have
                return [(driver, float(capability or 7.5)) for driver, capability in rows]
    return []


def choose_build(gpus: list[tuple[str, float]]) -> tuple[str, str]:
    """The build for these GPUs and the reason, to be printed; exits with a message if none fits."""
    if not gpus:
        hint = "`make install CUDA=cpu` takes the smaller build without CUDA"
        return "13.0", f"PyPI's build of PyTorch, because no NVIDIA driver answers ({hint})"
    driver = gpus[0][0]
    version = tuple(int(part) for part in re.findall(r"\d+", driver))
    lowest, highest = min(cap for _, cap in gpus), max(cap for _, cap in gpus)
    found = f"NVIDIA driver {driver}, compute capability {lowest:g}"
    found += f" to {highest:g}" if highest > lowest else ""
    for name, (oldest, least, most) in BUILDS.items():
        if version >= oldest and least <= lowest and highest <= most:
            return name, f"PyTorch for CUDA {name}, because of {found}"
    sys.exit(
        f"error: no build of PyTorch fits {found}. Those for CUDA 12 need driver 525.60.13 and "
        "capability 5, that for CUDA 13 driver 580.65.06 and capability 7.5, or newer. Update the "
        "driver, or do without the GPU: make install CUDA=cpu"
    )


def digest(cuda: str) -> str:
    """What an environment is made from, in one word."""
    content = [*sys.version_info[:2], cuda]
    content += [path.read_text(encoding="utf-8") for path in (REQUIREMENTS, CONSTRAINTS, FOR_DVC)]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def read_record(folder: Path) -> dict[str, Any]:
    """What this script wrote into an environment that it made; {} for any other folder."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) and "complete" in record else {}


def write_record(folder: Path, **record: Any) -> None:
    """Write the record atomically."""
    partial = folder / f"{RECORD}.partial"
    partial.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    partial.replace(folder / RECORD)


def is_current(record: dict[str, Any], asked: str | None) -> bool:
    """Whether .venv is complete, made from today's files, not moved, and the build asked for."""
    return (
        bool(record.get("complete"))
        and record["digest"] == digest(record["cuda"])
        and record["path"] == str(LINK.resolve())  # scripts name their interpreter absolutely
        and os.access(LINK / "bin/python", os.X_OK)
        and asked in (None, record["asked"], record["cuda"])
    )


def running() -> str:
    """The process that runs a stage or DVC in this checkout, or ""; known where there is /proc.

    It imports some modules late, and would take them from another environment than the others.
    """
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended, or is another user's
            words = (process / "cmdline").read_text(errors="replace").split("\0")
            works = any(re.fullmatch(r"stages\.\w+|(.*/)?dvc", word) for word in words)
            if works and (process / "cwd").readlink().is_relative_to(Path.cwd()):
                return f"process {process.name} ({' '.join(words).strip()})"
    return ""


def remove(folder: Path) -> None:
    """Delete an environment that this script made, and nothing else; its record last."""
    if folder.parent == ENVIRONMENTS and not folder.is_symlink() and read_record(folder):
        for part in folder.iterdir():
            if part.is_dir() and not part.is_symlink():
                shutil.rmtree(part)
        shutil.rmtree(folder)


def build(cuda: str, asked: str) -> None:
    """Build an environment, switch .venv to it in one step, then delete those before.

    After any error .venv is the old one or the new one, whole.
    """
    folder = Path(tempfile.mkdtemp(dir=ENVIRONMENTS, prefix=f"{cuda}-"))
    folder.chmod(0o755)
    write_record(folder, complete=False)
    pip = [str(folder / "bin/python"), "-m", "pip", "install", "--disable-pip-version-check"]
    pip += ["-c", str(CONSTRAINTS)]
    try:
        run([sys.executable, "-m", "venv", str(folder)])
        torch = re.search(r"^torch==([\w.]+)", REQUIREMENTS.read_text(encoding="utf-8"), re.M)
        if torch and cuda != "13.0" and sys.platform == "linux":
            label = cuda if cuda == "cpu" else f"cu{cuda.replace('.', '')}"
            run([*pip, "--extra-index-url", INDEX + label, f"torch=={torch[1]}+{label}"])
        run([*pip, "-r", str(REQUIREMENTS)])
        (packages,) = folder.glob("lib/python3*/site-packages")
        shutil.copyfile(FOR_DVC, packages / FOR_DVC.name)  # which says what for
        (packages / "dvc_utf8.pth").write_text("import dvc_utf8\n", encoding="utf-8")
        made = {"digest": digest(cuda), "path": str(folder.resolve())}
        write_record(folder, complete=True, **made, cuda=cuda, asked=asked)
    except BaseException:
        remove(folder)
        raise
    link = LINK.with_name(".venv.partial")
    link.unlink(missing_ok=True)
    link.symlink_to(folder)
    link.replace(LINK)
    print(f"installed: .venv is {folder}", flush=True)
    for other in ENVIRONMENTS.iterdir():
        if other != folder:
            remove(other)


def run(command: list[str]) -> None:
    """Run a command with its output on the screen; exits with a message when it fails."""
    print(f"$ {' '.join(command)}", flush=True)
    if subprocess.run(command, env=os.environ | {"PIP_USER": "0"}).returncode:
        sys.exit(
            f"error: {command[2]} failed, see above; .venv is as it was. "
            "No network, or a full disk? Put it right and run the same command again."
        )


def install(asked: str | None, keep: bool, fresh: bool) -> None:
    """Make .venv unless it is what it should be."""
    record = read_record(LINK)
    if keep and not fresh and is_current(record, asked):
        return
    if os.path.lexists(LINK) and not record:
        sys.exit("error: .venv was not made by `make install`. Move it away and run again.")
    if sys.version_info < (3, 11):  # noqa: UP036
        found = ".".join(map(str, sys.version_info[:2]))
        sys.exit(f"error: Python {found} found, 3.11 or newer needed: make PYTHON=python3.12 ...")
    ENVIRONMENTS.mkdir(exist_ok=True)
    with (ENVIRONMENTS / "lock").open("w") as lock:  # two at a time would delete each other's
        fcntl.flock(lock, fcntl.LOCK_EX)
        record = read_record(LINK)
        wish = asked or record.get("asked", "auto")
        if wish == "auto":
            cuda, reason = choose_build(read_gpus())
        else:
            cuda, reason = wish, f"the build of PyTorch that CUDA={wish} asks for"
        if not fresh and is_current(record, cuda):
            print(f".venv is up to date, with {reason}")
            return
        if record and (user := running()):
            sys.exit(
                f"error: {user} runs in this checkout, and .venv must be made anew ({reason}). "
                "Wait until it ends, or end it (a training goes on from its last checkpoint)."
            )
        print(f"making .venv with {reason}. It takes minutes.", flush=True)
        build(cuda, wish)


def write_constraints() -> None:
    """Resolve the requirements anew, without constraints, and pin all that they bring along."""
    command = [str(LINK / "bin/python"), "-m", "pip", "install", "--dry-run", "--ignore-installed"]
    command += ["--quiet", "--report", "-", "-r", str(REQUIREMENTS), "-r", str(REMOTES)]
    print("resolving the requirements: minutes", flush=True)
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit("error: pip could not resolve the requirements, see above; nothing was written.")
    packages = [package["metadata"] for package in json.loads(done.stdout)["install"]]
    pins = {package["name"].lower(): package["version"].split("+")[0] for package in packages}
    lines = [
        "# Generated by `make constraints`: all that the requirements bring along, by version.",
        "# Not here: nvidia-*, cuda-*, triton. They differ by build, and torch pins them itself.",
        *(f"{name}=={pins[name]}" for name in sorted(pins) if not DEMANDED_BY_TORCH.match(name)),
    ]
    CONSTRAINTS.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{CONSTRAINTS} is written. Next: make install, make test-all")


def main() -> None:
    """Install, or write constraints.txt."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--keep", action="store_true", help="do nothing where .venv is current")
    parser.add_argument("--fresh", action="store_true", help="build it also where it is current")
    parser.add_argument("--cuda", default="", help="PyTorch's build: auto, cpu, 12.6, 12.9, 13.0")
    parser.add_argument("--constraints", action="store_true", help="write constraints.txt anew")
    given = parser.parse_args()
    known = ("auto", "cpu", *BUILDS)
    if given.cuda not in ("", *known):
        sys.exit(f"error: CUDA={given.cuda}: there is no such build. Known: {', '.join(known)}.")
    try:
        if given.constraints:
            write_constraints()
        else:
            install(given.cuda or None, given.keep, given.fresh)
    except KeyboardInterrupt:
        sys.exit("interrupted: .venv is whole; run the same command again to go on")
    except OSError as error:
        sys.exit(f"error: {error}. .venv is whole; run the same command again to go on.")


if __name__ == "__main__":
    main()
