"""What an input is: all that it holds, by content, read once; and which arguments are inputs at all."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from composing import STAGES, composed, options
from omegaconf import OmegaConf

from rationale import hashes
from rationale.artifacts import InputPath, find_inputs, keyed, path_parameters, produce
from rationale.command.runs import call
from rationale.hashes import Hashes, fingerprint, remembered


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def folder(path, **files):
    path.mkdir()
    for name, text in files.items():
        (path / name).write_text(text, encoding="utf-8")
    return path


def test_a_path_of_one_word_is_an_input_and_a_word_that_is_no_path_is_none(here):
    for name in ("mine", "local", "test", "direct"):
        folder(here / name, data="x")
    task = {"_target_": "rationale.sources.public.folder", "root": "mine", "dataset": "local"}
    evaluate = {"_target_": "rationale.stages.evaluate.run"}
    evaluate["evaluation"] = {"_target_": "rationale.stages.evaluate.Evaluation", "split": "test", "styles": ["direct"]}
    model = {"_target_": "rationale.models.vlm.load", "path": "local", "dtype": "test"}
    assert list(find_inputs({"_target_": "rationale.stages.prepare.run", "task": task})) == ["mine"]
    assert list(find_inputs({**evaluate, "questions": "mine", "model": model})) == ["mine", "local"]


def test_a_pattern_of_one_word_is_an_input_where_a_path_is(here):
    folder(here / "eval_sft", rows="x")
    target = {"_target_": "rationale.tools.tabulate.run"}
    report = {"_target_": "rationale.reporting.specs.Report", "title": "eval*"}
    assert list(find_inputs({**target, "artifacts": ["eval_*"], "report": report})) == ["eval_sft"]


def given(rows: InputPath, style: str) -> None:
    """Somebody's own callable that says which of its arguments is a path."""


def silent(rows, style):
    """One that does not say."""


def test_of_others_code_every_word_that_exists_counts_unless_it_says_which_are_paths(here):
    folder(here / "a", x="1")
    folder(here / "b", x="2")
    for name, expected in (("given", ["a"]), ("silent", ["a", "b"]), ("absent", ["a", "b"])):
        assert list(find_inputs({"_target_": f"test_hashes.{name}", "rows": "a", "style": "b"})) == expected


def test_the_home_directory_is_put_in_place_of_its_sign(here, monkeypatch):
    monkeypatch.setenv("HOME", str(here))
    folder(here / "data", x="1")
    node = {"_target_": "rationale.stages.pair.run", "questions": "~/data", "out": "~/made", "rule": "a ~/b"}
    _, arguments, _ = call(OmegaConf.create(node))
    assert arguments == {**node, "questions": f"{here}/data", "out": f"{here}/made"}
    assert list(find_inputs(arguments)) == [f"{here}/data"]


@pytest.mark.parametrize("name", ["rows.parquet", "chart.bmp", "data.jsonl", "notes", ".hidden"])
def test_any_file_replaced_by_one_of_equal_size_is_another_input(here, name):
    before = fingerprint(folder(here / "data", **{name: "one"}))
    (here / "data" / name).write_text("two", encoding="utf-8")
    assert fingerprint(here / "data") != before


def test_a_folder_is_what_its_links_lead_to(here):
    for name in "ab":
        folder(here / name, rows=name)
    data = folder(here / "data")
    found = []
    for target in ("a/rows", "b/rows", "a", "b"):
        (data / "link").unlink(missing_ok=True)
        (data / "link").symlink_to(here / target)
        found.append(fingerprint(data))
    assert len(set(found)) == 4


def test_a_link_to_a_folder_that_holds_it_ends(here):
    data = folder(here / "data", rows="x")
    before = fingerprint(data)
    (data / "self").symlink_to(data)
    (data / "gone").symlink_to(here / "nowhere")
    assert fingerprint(data) == before


def make(out, text, **arguments):
    return produce(
        "stage", {"out": str(out), **arguments}, lambda f: (f / "rows").write_text(text, encoding="utf-8") and {}
    )


def test_an_artifact_within_an_input_counts_by_what_it_holds(here):
    data = folder(here / "data", rows="x")
    make(data / "inner", "one")
    before = fingerprint(data)
    shutil.rmtree(data / "inner")
    make(data / "inner", "one", seed=2)  # with another manifest
    assert fingerprint(data) == before
    make(data / "inner", "two", seed=3)
    assert fingerprint(data) != before


def test_a_file_of_that_name_in_others_data_is_no_manifest(here):
    before = fingerprint(folder(here / "data", **{"manifest.json": '{"rows": 1}'}))
    (here / "data/manifest.json").write_text('{"rows": 2}', encoding="utf-8")
    assert fingerprint(here / "data") != before


def test_an_artifact_that_was_altered_is_another_input(here):
    made = make(here / "made", "one")
    before = fingerprint(made)
    (made / "rows").write_text("two", encoding="utf-8")
    assert fingerprint(made) != before


def test_an_artifact_made_inside_its_own_input_is_no_part_of_it(here, capsys):
    (here / "data.jsonl").write_text("x", encoding="utf-8")
    for _ in range(2):
        make("runs/mini/questions", "one", root="./")
    assert "is up to date" in capsys.readouterr().out


@pytest.fixture
def settled(monkeypatch):
    """Files count as written long ago."""
    monkeypatch.setattr(hashes, "SETTLED", -1)


def test_a_second_look_reads_no_file(here, settled, monkeypatch):
    data = folder(here / "data", rows="x", more="y")
    first = Hashes(here / ".hashes")
    before = fingerprint(data, first)
    first.save()
    monkeypatch.setattr(hashes, "sha256_file", lambda path: pytest.fail(f"read {path}"))
    assert fingerprint(data, Hashes(here / ".hashes")) == before
    (here / "data").rename(here / "moved")
    assert fingerprint(here / "moved", remembered(here / "moved/seed_1/eval")) == before


def test_a_file_of_the_same_size_and_time_is_read_again(here, settled):
    rows = here / "rows"
    rows.write_text("one", encoding="utf-8")
    at, digest = rows.stat(), Hashes(here / ".hashes")
    before = digest(rows)
    rows.write_text("two", encoding="utf-8")
    os.utime(rows, ns=(at.st_atime_ns, at.st_mtime_ns))
    assert rows.stat().st_mtime_ns == at.st_mtime_ns and digest(rows) != before


def test_a_file_that_was_just_written_is_not_remembered(here):
    (here / "rows").write_text("one", encoding="utf-8")
    digest = Hashes(here / ".hashes")
    digest(here / "rows")
    digest.save()
    assert not (here / ".hashes").exists()


@pytest.mark.parametrize("kept", ["{", "[]", "\udcff", None])
def test_digests_that_cannot_be_read_or_kept_are_made_again(here, settled, kept):
    place = here / ".hashes" if kept is not None else here / "rows" / ".hashes"  # below a file
    (here / "rows").write_text("one", encoding="utf-8")
    if kept is not None:
        place.write_bytes(kept.encode("utf-8", "surrogateescape"))
    digest = Hashes(place)
    assert digest(here / "rows") == hashes.sha256_file(here / "rows")
    digest.save()
    assert kept is None or len(json.loads(place.read_text(encoding="utf-8"))) == 1
    assert sorted(path.name for path in here.iterdir()) == sorted({"rows", *([".hashes"] if kept is not None else [])})


def test_processes_add_to_what_others_kept(here, settled):
    one, other = Hashes(here / ".hashes"), Hashes(here / ".hashes")
    for digest, name in ((one, "a"), (other, "b")):
        Path(name).write_text(name, encoding="utf-8")
        digest(Path(name))
        digest.save()
    assert {place.split()[0] for place in json.loads((here / ".hashes").read_text(encoding="utf-8"))} == {"a", "b"}


@pytest.mark.parametrize(
    "words",
    [*([f"stage={stage}"] for stage in STAGES), *(["stage=prepare", f"dataset={one}"] for one in options("dataset"))],
    ids=" ".join,
)
def test_every_path_in_conf_is_an_argument_that_is_known_to_be_one(words):
    node = OmegaConf.to_container(composed("root=below", *words).stage, resolve=True)
    paths = {taker for _, value, taker in keyed(node) if str(value).startswith(("below/", "/somewhere"))}
    assert "out" not in node or not [taker for taker in paths if taker[1] not in path_parameters(taker[0])]
