"""Install this repository with its pinned packages into the Python that runs this, where there is no `make`.

    python3.11 -m venv .venv
    .venv/bin/python tools/install.py

Made for Python 3.11. Another one gets the same packages, with a warning: nobody has tried it.
"""
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def pip(*words: str) -> None:
    "Install something."
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check"]
    subprocess.run([*command, *words], cwd=ROOT, check=True)


if sys.version_info[:2] != (3, 11):
    print(f"This book is made and tested with Python 3.11, and this is {sys.version.split()[0]}. Trying all the same.")
lock = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
pip(next(line for line in lock if line.startswith("torch==")))  # alone and with what it needs, as in setup.sh
pip("--no-deps", "--requirement", "requirements.lock")
pip("--no-deps", "--no-build-isolation", "--ignore-requires-python", "--editable", ".")
if Path(sys.prefix).resolve() == ROOT / ".venv":
    (ROOT / ".venv/installed").touch()  # so that setup.sh goes on with it
sys.path.insert(0, str(ROOT))  # for the notebook that runs this; other processes find it by themselves
