"""Write the rendered book as one file: `make pdf`, `make epub`. The file lies in _build/print."""
import sys

from sftrepro.printing import print_book
from sftrepro.profiles import RequestError, load_profile
from sftrepro.store import display_path
from sftrepro.workflow import build_root, site_folder

if __name__ == "__main__":
    kind, profile = sys.argv[1], load_profile(sys.argv[2])
    out = build_root() / "print" / f"{profile.name}.{kind}"
    try:
        print_book(site_folder(profile), out)
    except RequestError as error:
        raise SystemExit(str(error)) from None
    print(f"Open {display_path(out)}")
