"""Put together what a release consists of: `.venv/bin/python tools/release.py v0.2.0 FOLDER`, after `make pdf epub`.

The tag must be the version of sftrepro/__init__.py and of CITATION.cff, and CHANGELOG.md must have a part for it.
FOLDER gets the site, the results and the bases as archives, the book as PDF and EPUB, verdicts.json, and the
checksums of these files in SHA256SUMS; notes.md is that part of the changelog. The same commit gives the same bytes
in the archives of results and bases. """
import gzip
import hashlib
import re
import shutil
import sys
import tarfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def notes(version: str, changelog: str) -> str:
    "The part of the changelog on a version; empty without one."
    parts = re.split(r"^## ", changelog, flags=re.MULTILINE)
    own = [part for part in parts if part.startswith(f"[{version}]")]
    return own[0].partition("\n")[2].strip() + "\n" if own else ""


def objections(tag: str, root: Path = ROOT) -> list[str]:
    "Why a tag cannot be released."
    version = tag.removeprefix("v")
    texts = {name: (root / name).read_text(encoding="utf-8")
             for name in ("sftrepro/__init__.py", "CITATION.cff", "CHANGELOG.md")}
    found = {"sftrepro/__init__.py": re.search(r'^__version__ = "(.+)"$', texts["sftrepro/__init__.py"], re.MULTILINE),
             "CITATION.cff": re.search(r"^version: (.+)$", texts["CITATION.cff"], re.MULTILINE)}
    wrong = [f"{name} says version {match[1] if match else 'none'}, the tag {tag}"
             for name, match in found.items() if not match or f"v{match[1]}" != tag]
    return wrong + ([] if notes(version, texts["CHANGELOG.md"]) else [f"CHANGELOG.md has no part [{version}]"])


def pack(folder: Path, name: str, archive: Path) -> None:
    "Pack the files of a folder under a name, in the order of their paths, without owners and times."
    with open(archive, "wb") as raw, gzip.GzipFile("", "wb", mtime=0, fileobj=raw) as packed, \
            tarfile.open(mode="w", fileobj=packed) as tar:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            entry = tarfile.TarInfo(f"{name}/{path.relative_to(folder)}")
            entry.size, entry.mode = path.stat().st_size, 0o644
            with open(path, "rb") as file:
                tar.addfile(entry, file)


def checksums(folder: Path) -> str:
    "What `sha256sum --check` reads, on all files of a folder."
    files = sorted(path for path in folder.iterdir() if path.name not in ("SHA256SUMS", "notes.md"))
    return "".join(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files)


def release(tag: str, out: Path, site: Path, printed: list[Path], root: Path = ROOT) -> None:
    "Fill a folder with the files of a release."
    out.mkdir(parents=True)
    for what, folder in (("site", site), ("results", root / "data/results"), ("bases", root / "data/bases")):
        name = f"sftrepro-{tag}-{what}"
        pack(folder, name, out / f"{name}.tar.gz")
    for file in printed:
        shutil.copyfile(file, out / f"sftrepro-{tag}{file.suffix}")
    changelog = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    (out / "notes.md").write_text(notes(tag.removeprefix("v"), changelog), encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: release.py TAG FOLDER")
    tag, out = sys.argv[1], Path(sys.argv[2])
    if wrong := objections(tag):
        sys.exit(f"{'; '.join(wrong)}. Mend them on main, then set the tag anew")
    import verdicts

    from sftrepro.profiles import load_profile
    from sftrepro.workflow import build_root, site_folder
    profile = load_profile()
    site = site_folder(profile)
    printed = [build_root() / "print" / f"{profile.name}.{kind}" for kind in ("pdf", "epub")]
    for file in (site / "index.html", *printed):
        if not file.exists():
            sys.exit(f"{file} is not there. Make it: make pdf epub")
    release(tag, out, site, printed)
    verdicts.write(out / "verdicts.json")
    (out / "SHA256SUMS").write_text(checksums(out), encoding="utf-8")
