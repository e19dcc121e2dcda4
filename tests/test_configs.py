"""Every config composes, resolves, and binds the signature of what it calls; nothing is called."""

import inspect
import shutil
from copy import deepcopy
from functools import cache

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import ConfigCompositionException
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationKeyError

from rationale.cli import CONF

FLAGS = {"_target_", "_partial_", "_convert_", "_recursive_"}
GIVEN = ["++data_root=/somewhere"]  # what only the user can know


def options(group):
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


STAGES, EXPERIMENTS = options("stage"), options("experiment")
GROUPS = sorted(
    path.name for path in CONF.iterdir() if path.is_dir() and path.name not in ("stage", "experiment", "hydra")
)
CHOICES = [f"{group}={option}" for group in GROUPS for option in options(group)]


def composed(*overrides, conf=CONF):
    with initialize_config_dir(version_base="1.3", config_dir=str(conf)):
        return compose("config", [*GIVEN, *overrides])


@cache
def signature_of(target):
    return inspect.signature(get_object(target))


def bind(node, path):
    """Bind every call below a resolved node to its signature; a node that is partial may lack arguments."""
    if isinstance(node, list):
        for index, item in enumerate(node):
            bind(item, f"{path}[{index}]")
    if not isinstance(node, dict):
        return
    for name, value in node.items():
        bind(value, f"{path}.{name}")
    if "_target_" in node:
        signature = signature_of(node["_target_"])
        binder = signature.bind_partial if node.get("_partial_") else signature.bind
        try:
            binder(**{name: value for name, value in node.items() if name not in FLAGS})
        except TypeError as error:
            raise TypeError(f"{path}: {node['_target_']} {error}") from error


def check(cfg: DictConfig):
    bind(OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True), "config")


@cache
def steps_of(experiment):
    """Each step of an experiment and the config it composes to."""
    cfg = composed(f"experiment={experiment}")
    found = {}
    for words in (str(step).split() for step in cfg.steps):
        alone = len(words) == 1
        found[" ".join(words)] = (
            with_stage(deepcopy(cfg), words[0].removeprefix("stage="))
            if alone
            else composed(f"experiment={experiment}", *words)
        )
    return found


def with_stage(cfg, stage):
    """The config with another stage: what `stage=...` would compose, in a fraction of the time."""
    OmegaConf.set_struct(cfg, False)
    cfg.stage = OmegaConf.load(CONF / "stage" / f"{stage}.yaml")
    return cfg


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_serves_every_stage(experiment):
    cfg = composed(f"experiment={experiment}")
    check(cfg)
    for stage in STAGES:
        check(with_stage(cfg, stage).stage)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_chosen_in_a_command_is_that_of_its_file(stage):
    chosen, put = composed(f"stage={stage}"), with_stage(composed(), stage)
    assert OmegaConf.to_container(chosen.stage, resolve=True) == OmegaConf.to_container(put.stage, resolve=True)


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_step_of_an_experiment_is_a_stage_that_binds(experiment):
    assert steps_of(experiment)
    for step, cfg in steps_of(experiment).items():
        assert "_target_" in cfg.stage, step
        check(cfg)


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_no_two_steps_write_the_same_artifact(experiment):
    outs = [cfg.stage.out for cfg in steps_of(experiment).values()]
    assert len(set(outs)) == len(outs), sorted(outs)


@pytest.mark.parametrize("choice", CHOICES)
def test_every_option_serves_every_stage(choice):
    cfg, group = composed(choice), choice.partition("=")[0]
    check(cfg)
    for stage in STAGES:
        # What a stage does not name cannot reach it; these two change other groups.
        if group in ("ablation", "scale") or f"{{{group}" in (CONF / "stage" / f"{stage}.yaml").read_text(
            encoding="utf-8"
        ):
            check(with_stage(cfg, stage).stage)


@pytest.mark.parametrize("of", ["model", "base", "sft", "dpo"])
def test_every_subject_can_be_sampled_scored_and_evaluated(of):
    for stage in ("sample", "score", "evaluate"):
        check(composed(f"of={of}", f"stage={stage}"))


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_that_loads_the_model_refuses_another_family(stage):
    """Before an image is read: a wrong pair of processor and model grew to 20 GB."""
    model = composed(f"stage={stage}", "model=qwen2_vl_2b").stage.get("model")
    assert not OmegaConf.is_config(model) or model.family == "qwen2_vl"


@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage not in ("pipeline", "verify")])
def test_a_stage_writes_below_root_and_nowhere_else(stage):
    assert str(composed("root=/elsewhere", "experiment=mini_base", f"stage={stage}").stage.out).startswith(
        "/elsewhere/"
    )


def test_an_experiment_never_mentions_a_stage():
    for experiment in EXPERIMENTS:
        assert "stage" not in OmegaConf.load(CONF / "experiment" / f"{experiment}.yaml")


@pytest.fixture
def doctored(tmp_path):
    """A copy of conf/ in which one text of one file is replaced."""

    def doctor(file, old, new):
        conf = tmp_path / "conf"
        shutil.copytree(CONF, conf)
        text = (conf / file).read_text(encoding="utf-8")
        assert old in text
        (conf / file).write_text(text.replace(old, new), encoding="utf-8")
        return conf

    return doctor


def test_a_misspelt_key_in_a_group_fails(doctored):
    conf = doctored("teacher/program.yaml", "slip:", "slpi:")
    with pytest.raises(TypeError, match=r"teacher: .*ProgramTeacher got an unexpected keyword argument 'slpi'"):
        check(composed("stage=distill", conf=conf))


def test_a_misspelt_key_of_a_partial_fails(doctored):
    conf = doctored("trainer/cpu.yaml", "precision:", "percision:")
    with pytest.raises(TypeError, match="percision"):
        check(composed("stage=sft", conf=conf))


def test_a_missing_argument_of_a_stage_fails(doctored):
    conf = doctored("stage/pair.yaml", "seed: ${seed}\n", "")
    with pytest.raises(TypeError, match=r"rationale\.stages\.pair\.run missing a required argument: 'seed'"):
        check(composed("stage=pair", conf=conf))


def test_an_interpolation_that_leads_nowhere_fails(doctored):
    conf = doctored("stage/pair.yaml", "${paths.responses}", "${paths.reponses}")
    with pytest.raises(InterpolationKeyError, match="reponses"):
        check(composed("stage=pair", conf=conf))


def test_a_misspelt_override_fails():
    with pytest.raises(ConfigCompositionException, match=r"dpo\.betta"):
        composed("dpo.betta=0.1")
