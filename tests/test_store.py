"""What was finished is still there, and what was not finished does not look as if it were."""
import errno
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sftrepro import item_results, store
from sftrepro.profiles import RequestError, load_profile

SMOKE = load_profile("smoke")
ROW = {
    "profile": "smoke",
    "run_id": "Nano",
    "run_name": "Nano",
    "base": "Nano",
    "data": "base",
    "seed": 0,
    "step": 0,
    "benchmark": "order",
    "item_id": "1",
    "trial": 0,
    "prompt_digest": "d",
    "response": "I think B",
    "tokens": 3,
    "truncated": False,
    "looped": False,
    "reconsiders": False,
    "weighs": False,
    "parsed": True,
    "answer": "B",
    "score": 1.0,
    "lenient": 1.0,
    "grades": None,
    "scorer": "choice",
    "scorer_version": 1,
    "engine": "transformers",
    "engine_version": "5",
    "device": "CPU",
    "temperature": 0.6,
    "top_p": 0.95,
    "max_new_tokens": 16,
    "sampling_seed": 1,
    "seconds": 0.1,
}


def python(code: str, *arguments: object) -> subprocess.Popen:
    "A process that runs some code and answers on a pipe."
    return subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], text=True,
                            stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def test_a_writer_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    store.write_bytes(tmp_path / "a.json", b"old")
    with pytest.raises(ValueError), store.atomic(tmp_path / "a.json") as temporary:
        temporary.write_bytes(b"half of the n")
        raise ValueError
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a.json": b"old"}


def test_a_killed_writer_leaves_the_old_file_and_the_next_one_cleans_up(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    store.write_bytes(path, b"old")
    process = python("import sys, pathlib\nfrom sftrepro import store\n"
                     "with store.atomic(pathlib.Path(sys.argv[1])) as temporary:\n"
                     "    temporary.write_bytes(b'half'); print('writing', flush=True); sys.stdin.read()", path)
    assert process.stdout.readline() == "writing\n"
    process.kill()
    process.wait()
    assert path.read_bytes() == b"old"
    store.write_bytes(path, b"new")
    assert [each.name for each in tmp_path.iterdir()] == ["a.json"] and path.read_bytes() == b"new"


@pytest.mark.skipif(
    not shutil.which("bwrap"), reason="a small disk is made with bubblewrap: apt-get install bubblewrap"
)
def test_a_full_disk_names_the_file_and_leaves_the_old_one(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib\nfrom sftrepro import store\npath = pathlib.Path(sys.argv[1]) / 'a.bin'\n"
        "store.write_bytes(path, b'old')\n"
        "try: store.write_bytes(path, bytes(1_000_000))\n"
        "except OSError as error: print(error.errno, error.filename, [p.name for p in path.parent.iterdir()], "
        "path.read_bytes())"
    )
    box = [
        "bwrap",
        "--dev-bind",
        "/",
        "/",
        "--size",
        "500000",
        "--tmpfs",
        tmp_path,
        sys.executable,
        "-c",
        code,
        tmp_path,
    ]
    ended = subprocess.run(box, capture_output=True, text=True)
    assert ended.stdout == f"{errno.ENOSPC} {tmp_path / 'a.bin'} ['a.bin'] b'old'\n", ended.stderr


@given(
    files=st.dictionaries(
        st.from_regex(r"[a-z]{1,8}(/[a-z]{1,8})?", fullmatch=True),
        st.binary(min_size=1, max_size=50),
        min_size=1,
        max_size=4,
    ),
    data=st.data(),
)
@settings(max_examples=12, deadline=None)
def test_one_changed_byte_is_noticed_and_named(files: dict[str, bytes], data: st.DataObject) -> None:
    with TemporaryDirectory() as place:
        run = Path(place) / "run"
        for name, content in files.items():
            try:
                store.write_bytes(run / name, content)
            except (FileExistsError, NotADirectoryError, IsADirectoryError):   # `a` and `a/b`
                return
        assert set(store.seal(run, {}).files) == set(files) and store.verify(run).inputs == {}
        name = data.draw(st.sampled_from(sorted(files)))
        changed = bytearray(files[name])
        changed[data.draw(st.integers(0, len(changed) - 1))] ^= data.draw(st.integers(1, 255))
        (run / name).write_bytes(changed)
        with pytest.raises(RequestError, match=f"run/{name}: sha256 differs from its manifest"):
            store.verify(run)
        (run / name).unlink()
        with pytest.raises(RequestError, match=f"run/{name} is missing"):
            store.verify(run)


def test_results_share_one_list_of_code_and_notice_when_it_is_damaged(tmp_path: Path) -> None:
    code = {"score.boxed": "3a5f00000000"}
    for run, other in (("R25", {}), ("R33", {}), ("R04", {"answers.same_value": "77"})):
        (tmp_path / f"{run}.parquet").write_bytes(run.encode())
        store.seal(tmp_path / f"{run}.parquet", {"spec": run, "code": code | other})
    lists = sorted(tmp_path.glob("code-*.json"))
    assert len(lists) == 2 and store.verify(tmp_path / "R25.parquet").inputs == {"spec": "R25", "code": code}
    used = next(path for path in lists if store.read_json(path) == code)
    used.write_text('{"score.boxed": "3a5f00000001"}')
    with pytest.raises(RequestError, match=rf"{used.name} is not the code that it is named after"):
        store.verify(tmp_path / "R33.parquet")
    used.unlink()
    with pytest.raises(RequestError, match=rf"{used.name} is missing"):
        store.verify(tmp_path / "R33.parquet")
    assert store.verify(tmp_path / "R04.parquet").inputs["code"] == code | {"answers.same_value": "77"}


def test_processes_that_write_the_same_shared_file_at_once_do_not_meet(tmp_path: Path) -> None:
    code = ("import sys; from pathlib import Path; from sftrepro import store\n"
            "for number in range(200):\n"
            "    store.write_shared(Path(sys.argv[1], f'code-{number}.json'), {'number': number})")
    writers = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)]) for _ in range(3)]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(f"code-{number}.json" for number in range(200))


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"files": {}}', b"\xff\xfe"])
def test_a_damaged_manifest_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(RequestError) as refused:
        store.verify(tmp_path)
    assert "manifest.json" in str(refused.value) and "\n" not in str(refused.value)


def test_what_is_committed_comes_back_from_git_and_the_store_is_made_again(own_store: Path) -> None:
    with pytest.raises(RequestError, match="data/bases/none is missing. Restore it: git checkout data/bases/none"):
        store.verify(store.locate("data/bases/none"))
    with pytest.raises(RequestError, match="runs/smoke/Nano is missing. Make it again: make rebuild PROFILE=smoke"):
        store.verify(store.run_folder("smoke", "Nano"))


def test_every_reading_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store.write_table(tmp_path / "a.parquet", pl.DataFrame({"x": [1]}))
    (tmp_path / "b.csv").write_text("x\n1\n")
    (tmp_path / "c.toml").write_text("x = 1")
    monkeypatch.setenv("SFTREPRO_READS", str(tmp_path / "reads"))
    assert store.read_table(tmp_path / "a.parquet").equals(store.read_table(tmp_path / "b.csv"))
    assert store.read_toml(tmp_path / "c.toml") == {"x": 1}
    assert (tmp_path / "reads").read_text().split() == [
        str(tmp_path.resolve() / name) for name in ("a.parquet", "b.csv", "c.toml")
    ]


def test_an_unfinished_folder_is_continued_with_equal_inputs_only(tmp_path: Path) -> None:
    final = tmp_path / "run"
    (store.begin(final, {"rows": 1}) / "step").write_text("early")
    assert (store.begin(final, {"rows": 1}) / "step").exists()
    assert not (store.begin(final, {"rows": 2}) / "step").exists()


@pytest.mark.parametrize("moment", ["before sealing", "before the old one is moved", "before the new one is in place"])
def test_a_job_killed_at_its_very_end_is_finished_by_the_next_start(tmp_path: Path, moment: str) -> None:
    final, inputs = tmp_path / "run", {"rows": 2}
    (store.begin(final, {"rows": 1}) / "weights").write_text("old")
    store.finish(final, {"rows": 1})
    partial = store.begin(final, inputs)
    (partial / "weights").write_text("new")
    if moment != "before sealing":
        store.seal(partial, inputs)
    if moment == "before the new one is in place":
        final.rename(tmp_path / "run.replaced")
    assert (store.begin(final, inputs) / "weights").read_text() == "new"
    store.finish(final, inputs)
    assert store.verify(final).inputs == inputs and (final / "weights").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_lock_that_a_slurm_job_holds_names_the_command_of_slurm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "18")
    with store.locked(tmp_path / "lock", "train/a"):
        with pytest.raises(RequestError, match=r"^train/a is already running\. Wait, or stop it: scancel 18$"):
            with store.locked(tmp_path / "lock", "train/a"):
                pass


def test_quarantine_loses_nothing(own_store: Path) -> None:
    run = store.run_folder("smoke", "Nano")
    store.write_bytes(run / "weights", b"damaged")
    assert (store.quarantine(run) / "weights").read_bytes() == b"damaged" and not run.exists()


HOLD = ("import sys, pathlib\nfrom sftrepro import store\n"
        "with store.locked(pathlib.Path(sys.argv[1]), 'a rebuild'): print('held', flush=True); sys.stdin.read()")


def test_a_lock_names_its_holder_and_is_gone_when_that_is_killed(tmp_path: Path) -> None:
    holder = python(HOLD, tmp_path / "lock")
    assert holder.stdout.readline() == "held\n"
    message = rf"^a rebuild is already running\. Wait, or stop it: kill {holder.pid}$"
    with pytest.raises(RequestError, match=message):
        with store.locked(tmp_path / "lock", "a rebuild"):
            pass
    os.kill(holder.pid, signal.SIGKILL)
    with store.locked(tmp_path / "lock", "a rebuild"):
        pass
    holder.wait()


@given(
    st.lists(
        st.tuples(
            st.integers(0, 640),
            st.floats(0, 1),
            st.booleans(),
            st.none() | st.text(max_size=5),
            st.none() | st.integers(1, 5),
        ),
        min_size=1,
        max_size=8,
    )
)
@settings(max_examples=10, deadline=None)
def test_published_results_come_back_as_they_were_without_their_responses(values: list[tuple]) -> None:
    frame = pl.DataFrame(
        [
            ROW
            | {
                "item_id": str(number),
                "step": step,
                "score": score,
                "truncated": truncated,
                "answer": answer,
                "grades": None if grade is None else [{"judge": "rules", "grade": float(grade)}],
            }
            for number, (step, score, truncated, answer, grade) in enumerate(values)
        ],
        schema_overrides={"answer": str, "grades": item_results.GRADES},
    )
    with TemporaryDirectory() as place, pytest.MonkeyPatch.context() as patch:
        patch.setenv("SFTREPRO_STORE", place)
        item_results.publish_results(SMOKE, "Nano", frame, {"by": "test"})
        back = item_results.read_results(SMOKE, ["Nano"])
    assert "response" not in back.columns
    kept = frame.drop("response", "prompt_digest", "sampling_seed")
    assert back.sort("item_id").equals(kept.sort("item_id"))


def test_the_gallery_holds_the_first_items_of_the_first_seed_and_nothing_harmful(own_store: Path) -> None:
    def rows(run_id: str, seed: int) -> pl.DataFrame:
        return pl.DataFrame(
            [
                ROW | {"run_id": run_id, "seed": seed, "benchmark": benchmark, "item_id": str(item), "trial": trial}
                for benchmark in ("order", "HEx-PHI")
                for item in range(9)
                for trial in (0, 1)
            ],
            schema_overrides={"grades": item_results.GRADES},
        )
    for seed, run_id in enumerate(("Nano", "first", "second")):
        item_results.publish_results(SMOKE, run_id, rows(run_id, seed), {})
    shown = item_results.read_gallery(SMOKE, ["Nano", "first", "second"])
    assert set(shown.select("run_id", "benchmark", "trial").iter_rows()) == {
        ("Nano", "order", 0),
        ("first", "order", 0),
    }
    assert shown.filter(run_id="first")["item_id"].to_list() == [str(item) for item in range(SMOKE.gallery)]


@pytest.mark.parametrize(
    "wrong", [{"score": 1.5}, {"score": None}, {"step": -1}, {"run_id": None}, {"parsed": "perhaps"}, {"unheard_of": 1}]
)
def test_rows_outside_the_schema_are_refused_and_nothing_is_written(own_store: Path, wrong: dict) -> None:
    with pytest.raises(RequestError, match="results of Nano: "):
        item_results.publish_results(SMOKE, "Nano", pl.DataFrame([ROW | wrong]), {})
    assert not list(own_store.rglob("*")) if own_store.exists() else True


def test_the_same_row_twice_is_refused(own_store: Path) -> None:
    with pytest.raises(RequestError, match="not unique"):
        item_results.publish_results(SMOKE, "Nano", pl.DataFrame([ROW, ROW]), {})


def test_missing_and_damaged_results_name_the_command(own_store: Path) -> None:
    path = item_results.publish_results(SMOKE, "Nano", pl.DataFrame([ROW]), {})
    with pytest.raises(
        RequestError, match=r"chapter 22 needs 1 runs .*\(first: Other\). Make them: make rebuild PROFILE=smoke"
    ):
        item_results.read_results(SMOKE, ["Nano", "Other"], "chapter 22")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(
        RequestError, match="runs/smoke/results/Nano.parquet: sha256 differs .*make rebuild PROFILE=smoke"
    ):
        item_results.read_results(SMOKE, ["Nano"])
