"""Write the summary of the scoreboard into README.md, from the committed results of profile micro.

    python tools/readme.py
"""
from sftrepro.cards import current_verdicts, readme_table
from sftrepro.profiles import ROOT, load_profile
from sftrepro.token_logprobs import token_results

BEGIN, END = "<!-- scoreboard: written by tools/readme.py -->", "<!-- end of the scoreboard -->"


def with_block(text: str, block: str) -> str:
    "A page whose text between the two marks is the block."
    before, found, rest = text.partition(BEGIN)
    _, ended, after = rest.partition(END)
    if not (found and ended):
        raise SystemExit(f"README.md lacks the marks {BEGIN} and {END}. Restore it: git checkout README.md")
    return f"{before}{BEGIN}\n{block}\n{END}{after}"


def current() -> str:
    "README.md as the committed results give it."
    profile = load_profile("micro")
    words = current_verdicts(profile, token_results(profile, ["R24", "R04"]))
    return with_block((ROOT / "README.md").read_text(encoding="utf-8"), readme_table(words, profile))


if __name__ == "__main__":
    (ROOT / "README.md").write_text(current(), encoding="utf-8")
