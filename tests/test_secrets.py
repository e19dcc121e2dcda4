"""A key that the environment holds is in no file and no output; one typed as a setting is refused before any is."""

from __future__ import annotations

import os
import subprocess

import pytest
import yaml
from commands import command
from loopback import KEY, Loopback

from rationale.artifacts import UserError
from rationale.command.cli import CONF
from rationale.endpoints.keys import refuse_keys
from rationale.schema import EvalRow, Rationale, read_jsonl

ENVIRONMENT = {**os.environ, "TEST_KEY": KEY, "OMP_NUM_THREADS": "1"}
SMALL = ["experiment=mini_small", "dataset.images={train: 1, val: 0, test: 1}"]


def asked(folder, *arguments):
    return subprocess.run(
        command(folder, *SMALL, *arguments),
        cwd=folder, env=ENVIRONMENT, capture_output=True, encoding="utf-8", timeout=600, check=False,
    )  # fmt: skip


def telling(folder):
    """The files that hold the key, and how many there are in all."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [path for path in files if KEY.encode() in path.read_bytes()], len(files)


@pytest.mark.slow
def test_a_key_of_the_environment_is_in_no_file_and_no_output(tmp_path):
    """Of a sweep with wandb's files: Hydra's, the jobs' records, the artifacts'. The endpoint repeats the key in every
    second answer of the distillation."""
    with Loopback(lambda text, number: "400" if len(text) % 2 and "Reference answer" in text else None) as server:
        done = asked(
            tmp_path, "seed=1", "teacher=openai", "generator=server", "generator.model_name=served",
            "steps=[{stage: prepare},{stage: distill},{stage: evaluate, checkpoint: model, evaluation.name: served}]",
            *(f"{of}.base_url={server.url}" for of in ("teacher", "generator")),
            *(f"{of}.key_variable=TEST_KEY" for of in ("teacher", "generator")), "-m",
        )  # fmt: skip
    said = done.stdout + done.stderr
    assert done.returncode == 0, said[-4000:]
    assert server.keys == {f"Bearer {KEY}"}
    found, number = telling(tmp_path)
    assert found == [] and number > 20
    assert KEY not in said

    run = tmp_path / "runs/mini_small"
    assert read_jsonl(next(run.rglob("eval/served/rows.jsonl")), EvalRow)
    replies = read_jsonl(run / "rationales/rows.jsonl", Rationale)
    assert any("Bearer <TEST_KEY>" in reply.reason for reply in replies)
    names = {path.name for path in run.rglob("*")}
    assert {"multirun.yaml", "overrides.yaml", "0.json", "manifest.json", "wandb"} <= names


@pytest.mark.slow
def test_a_key_typed_as_a_setting_is_refused_before_anything_is_written(tmp_path):
    done = asked(tmp_path, "stage=distill", "teacher=openai", f"+teacher.options.api_key={KEY}")
    assert done.returncode == 1
    assert "teacher.options.api_key is called as a key or a password is" in done.stderr
    assert "set key_variable" in done.stderr and KEY not in done.stdout + done.stderr
    assert telling(tmp_path) == ([], 0)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"teacher": {"options": {"api_key": "abc"}}}, "teacher.options.api_key is called"),
        ({"options": {"extra_headers": {"Authorization": "abc"}}}, "options.extra_headers.Authorization is called"),
        ({"options": {"api-key": "${oc.env:TEST_KEY}"}}, "options.api-key is called"),
        ({"model": {"token": "abc"}}, "model.token is called"),
        ({"base_url": "https://me:abc@host/v1"}, "base_url holds a password"),
        ({"base_url": "https://host/v1?key=abc"}, "base_url gives 'key'"),
        ({"overrides": ["seed=1", "+teacher.options.api_key=abc,def"]}, "overrides gives 'teacher.options.api_key'"),
        ({"overrides": ["hydra.job.env_set.OPENAI_API_KEY=abc"]}, "gives 'hydra.job.env_set.OPENAI_API_KEY'"),
        ({"steps": [{"stage": "distill", "teacher.options.password": "abc"}]}, "options.password is called"),
        ({"key_variable": "abc-def"}, "key_variable is not a variable's name"),
        ({"key_variable": "hf_abcdefghijklmnopqrst"}, "key_variable is not a variable's name"),
        ({"user": "sk-abcdefghijklmnop"}, "user holds a key"),
        ({"note": "Bearer abcdefghijkl"}, "note holds a key"),
        ({"key_variable": "TEST_KEY", "logger": {"group": f"by {KEY[3:]}"}}, "logger.group holds a key"),
    ],
)
def test_a_key_among_the_settings_is_refused_by_place_and_never_repeated(settings, said, monkeypatch):
    monkeypatch.setenv("TEST_KEY", KEY[3:])
    with pytest.raises(UserError) as refused:
        refuse_keys(settings)
    assert said in str(refused.value)
    assert "abc" not in str(refused.value) and KEY[3:] not in str(refused.value)


def test_nothing_in_the_configs_looks_like_a_key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    for path in CONF.rglob("*.yaml"):
        refuse_keys(yaml.safe_load(path.read_text(encoding="utf-8")))
    refuse_keys({"token_limit": "max_tokens", "image_token": "<image>", "api_key": "", "prompt": "Name the key: a=b"})
