"""Write the verdicts of this checkout as JSON, or say how two such files differ.

    .venv/bin/python tools/verdicts.py write verdicts.json            # profile micro
    .venv/bin/python tools/verdicts.py write verdicts.json small
    python3 tools/verdicts.py diff OLD.json NEW.json

Each release carries such a file. The difference tells apart why a verdict changed: because its criterion did, or
under the same criterion because of results, controls or code. Comparing needs nothing but Python. """
import hashlib
import json
import sys
from pathlib import Path

UNCHANGED = "same criterion"


def verdicts(name: str) -> dict:
    "The verdicts of a profile, each with the criterion that it is computed from."
    import polars as pl

    import sftrepro
    from sftrepro import store
    from sftrepro.cards import current_verdicts
    from sftrepro.claims import ledger
    from sftrepro.profiles import RequestError, load_profile
    from sftrepro.token_logprobs import token_results
    profile = load_profile(name)
    try:
        tokens = token_results(profile, ["R24", "R04"])  # what C11 is judged by
    except RequestError:  # they are not published; C11 then awaits its runs
        tokens = pl.DataFrame()
    claims = {}
    for id, word in current_verdicts(profile, tokens).items():
        claim = ledger().claims[id]
        criterion = claim.criterion.model_dump_json() if claim.criterion else ""
        claims[id] = {"title": claim.title, "verdict": word, "chapter": claim.chapter,
                      "criterion_fixed": str(claim.criterion.fixed) if claim.criterion else "",
                      "criterion_sha256": hashlib.sha256(criterion.encode()).hexdigest()}
    return {"version": sftrepro.__version__, "commit": store.commit(), "profile": name, "claims": claims}


def reason(old: dict, new: dict) -> str:
    "What became of a claim's criterion."
    if old["criterion_sha256"] == new["criterion_sha256"]:
        return UNCHANGED
    dates = [claim["criterion_fixed"] or "none" for claim in (old, new)]
    return f"criterion changed, {dates[0]} -> {dates[1]}" if len(set(dates)) == 2 else "criterion changed"


def difference(old: dict, new: dict) -> str:
    "How two sets of verdicts differ, as lines of Markdown."
    before, after = old["claims"], new["claims"]
    lines = []
    for id, claim in after.items():
        was = before.get(id)
        if was is None:
            lines.append(f"- {id} {claim['title']}: new, {claim['verdict']}")
        elif was["verdict"] != claim["verdict"]:
            lines.append(f"- {id} {claim['title']}: {was['verdict']} -> {claim['verdict']} ({reason(was, claim)})")
        elif (why := reason(was, claim)) != UNCHANGED:
            lines.append(f"- {id} {claim['title']}: still {claim['verdict']} ({why})")
    lines += [f"- {id} {claim['title']}: no longer a claim of the ledger; it was {claim['verdict']}"
              for id, claim in before.items() if id not in after]
    shared = [id for id in after if id in before]
    changed = sum(before[id]["verdict"] != after[id]["verdict"] for id in shared)
    sources = [f"{side['version']} ({side['commit']}, profile {side['profile']})" for side in (old, new)]
    head = f"Verdicts, {sources[0]} -> {sources[1]}: {changed} of {len(shared)} changed."
    return "\n".join([head, *([""] if lines else []), *lines]) + "\n"


def write(path: Path, name: str = "micro") -> None:
    "Write the verdicts of a profile."
    path.write_text(json.dumps(verdicts(name), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read(path: str) -> dict:
    return json.loads(Path(path).read_text(encoding="utf-8"))


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["write", path, *profile] if len(profile) < 2:
            write(Path(path), *profile)
        case ["diff", old, new]:
            print(difference(read(old), read(new)), end="")
        case _:
            sys.exit("usage: verdicts.py write FILE [PROFILE], or verdicts.py diff OLD NEW")
