"""Every config composes, resolves, and binds the signature of what it calls; nothing is called."""

import re
import shutil
from copy import deepcopy
from functools import cache

import pytest
from composing import EXPERIMENTS, STAGES, check, composed, options, problems, with_stage
from forks import Fork
from hydra.errors import ConfigCompositionException
from omegaconf import OmegaConf
from omegaconf.errors import InterpolationKeyError

from rationale.artifacts import UserError
from rationale.command.binding import BY_CODE, FLAGS, misfits, unread
from rationale.command.cli import CONF
from rationale.command.runs import check_bound, check_read, overrides_of, texts_below

GROUPS = sorted(
    path.name
    for path in CONF.iterdir()
    if path.is_dir() and path.name not in ("stage", "experiment", "endpoint", "hydra")
)
CHOICES = [f"{group}={option}" for group in GROUPS for option in options(group)]
FILES = texts_below((str(CONF),))
SHOWING = [name for name in EXPERIMENTS if "\nreport:" in FILES[f"experiment/{name}.yaml"]]
MANY = ("ablation", "scale", "experiment")  # what changes other groups


chosen = cache(composed)  # of one choice: only its stage is ever changed


@cache
def steps_of(experiment):
    """Each step of an experiment and the config it composes to."""
    cfg = composed(f"experiment={experiment}")
    found = {}
    for step in cfg.steps:
        words = overrides_of(step)
        alone = len(words) == 1
        found[" ".join(words)] = (
            with_stage(deepcopy(cfg), step.stage) if alone else composed(f"experiment={experiment}", *words)
        )
    return found


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


@pytest.mark.parametrize(
    ("step", "today"),
    [("stage=sft ablation=both", r"\{stage: sft, ablation: both\}"), ({"of": "dpo"}, "now checkpoint")],
)
def test_a_step_written_as_before_is_told_how_it_is_written(step, today):
    with pytest.raises(UserError, match=today):
        overrides_of(OmegaConf.create([step])[0])


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_no_two_steps_write_the_same_artifact(experiment):
    outs = [cfg.stage.out for cfg in steps_of(experiment).values()]
    assert len(set(outs)) == len(outs), sorted(outs)


@pytest.mark.parametrize("choice", CHOICES)
def test_every_option_serves_every_stage(choice):
    cfg, group = chosen(choice), choice.partition("=")[0]
    check(cfg)
    for stage in STAGES:
        # What a stage does not name cannot reach it; these two change other groups.
        if group in ("ablation", "scale") or f"{{{group}" in (CONF / "stage" / f"{stage}.yaml").read_text(
            encoding="utf-8"
        ):
            check(with_stage(cfg, stage).stage)


@pytest.mark.parametrize("checkpoint", ["model", "base", "sft", "dpo", "grpo"])
def test_every_checkpoint_can_be_sampled_scored_and_evaluated(checkpoint):
    for stage in ("sample", "score", "evaluate"):
        check(composed(f"checkpoint={checkpoint}", f"stage={stage}"))


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_that_loads_the_model_refuses_another_family(stage):
    """Before an image is read: a wrong pair of processor and model grew to 20 GB."""
    model = composed(f"stage={stage}", "model=qwen2_vl_2b").stage.get("model")
    assert not OmegaConf.is_config(model) or model.family == "qwen2_vl"


@pytest.mark.parametrize("stage", [stage for stage in STAGES if "\nout: " in FILES[f"stage/{stage}.yaml"]])
def test_a_stage_writes_below_root_and_nowhere_else(stage):
    assert str(composed("root=/elsewhere", f"stage={stage}").stage.out).startswith("/elsewhere/")


def test_every_phase_of_the_base_checkpoint_is_a_stage_that_binds():
    own = [f"hydra.searchpath=[file://{CONF.parent}/experiments/mini_base/conf]", "experiment=mini_base"]
    steps = composed(*own).steps
    for step in steps:
        check(composed(*own, *overrides_of(step)))
    assert sum(step["stage"] == "pretrain" for step in steps) == 7


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


def test_a_misspelt_key_in_a_group_is_refused(doctored):
    cfg = composed("stage=distill", conf=doctored("teacher/program.yaml", "slip:", "slpi:"))
    with pytest.raises(UserError, match=r"teacher\.slpi .*ProgramTeacher takes no 'slpi'; nearest: slip"):
        check_bound([cfg], FILES)


def test_a_misspelt_key_of_a_partial_is_refused(doctored):
    cfg = composed("stage=sft", conf=doctored("trainer/auto.yaml", "precision:", "percision:"))
    with pytest.raises(UserError, match=r"trainer\.percision .*Trainer takes no 'percision'; nearest: precision"):
        check_bound([cfg], FILES)


def test_a_missing_argument_of_a_stage_is_refused(doctored):
    cfg = composed("stage=pair", conf=doctored("stage/pair.yaml", "seed: ${seed}\n", ""))
    assert ("stage", "rationale.stages.pair.run needs seed") in problems(cfg.stage, "stage")


def test_an_interpolation_that_leads_nowhere_fails(doctored):
    conf = doctored("stage/pair.yaml", "${paths.responses}", "${paths.reponses}")
    with pytest.raises(InterpolationKeyError, match="reponses"):
        check(composed("stage=pair", conf=conf))


def test_a_misspelt_override_fails():
    with pytest.raises(ConfigCompositionException, match=r"dpo\.betta"):
        composed("dpo.betta=0.1")


# Where keys are free: names of data sets, models and tables, labels, and what another library or an endpoint takes.
FREE = re.compile(
    r"benchmarks\.(train_sets|other_pairs\.make)|checkpoints|checkpoint_names|score\.names|logger\.config.*"
    r"|dataset(\.tasks\.\w+)?\.(about|options)|dataset\.tasks"
    r"|model\.processor.*|plan\.adapter|plan\.\w+\.shared|pretrain\.keep|(teacher|extractor\.model)\.options"
    r"|report\.(tables|verifier\.paper\.\w+)|panels(\.\w+(\.gains(\.\w+)?)?)?|sft\.optim\.part_lrs|trainer\.strategy"
)


def misfits_of(cfg, stage):
    """What `stage=` of a config would be refused for."""
    config = OmegaConf.to_container(with_stage(cfg, stage), resolve=False)
    return misfits(OmegaConf.to_container(cfg.stage, resolve=True), "stage", config["stage"], config)


def misspelt(node, place):
    """Put a misspelt key beside one of each mapping below a node; the places of the misspelt with what was meant."""
    found = {}
    for key, value in list(node.items() if isinstance(node, dict) else enumerate(node)):
        if isinstance(value, dict | list):
            found |= misspelt(value, f"{place}.{key}" if isinstance(node, dict) else f"{place}[{key}]")
    if isinstance(node, dict) and not FREE.fullmatch(place) and (keys := [key for key in node if key not in FLAGS]):
        key = max(keys, key=len)
        node[key + key[-1]] = None
        found[f"{place}.{key}{key[-1]}"] = key
    return found


def let_through(choice, *overrides):
    """Misspelt keys of all that a choice brings that are not refused by their place and with the key that was meant."""
    config = OmegaConf.to_container(composed(choice, *overrides) if overrides else chosen(choice), resolve=False)
    group = choice.partition("=")[0]
    meant = {}
    for name in config.keys() - BY_CODE - {"benchmarks"} if group in MANY else [group]:
        meant |= misspelt(config[name], name) if isinstance(config[name], dict) else {}
    refused, whole = list(unread(config, FILES)), OmegaConf.create(config)
    for stage in STAGES:
        if (
            group in MANY
            or f"{{{group}" in FILES[f"stage/{stage}.yaml"]
            or (group, stage) == ("benchmarks", "tabulate")
        ):
            refused += misfits_of(whole, stage)
    told = {place: what.rpartition("nearest: ")[2] for place, what in refused}
    return {place for place, key in meant.items() if told.get(place, "").rpartition(".")[2] != key}


@pytest.mark.parametrize("choice", [c for c in CHOICES if not c.startswith("benchmarks=")])
def test_a_misspelt_key_of_every_node_of_every_option_is_refused(choice):
    assert not let_through(choice)


@pytest.mark.slow
@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_a_misspelt_key_of_every_node_of_every_experiment_is_refused(experiment):
    assert not let_through(f"experiment={experiment}")


@pytest.mark.slow
@pytest.mark.parametrize("choice", [c for c in CHOICES if c.startswith("benchmarks=")])
def test_a_misspelt_key_of_every_node_of_the_benchmarks_is_refused_by_the_experiment_that_shows_it(choice):
    left = let_through(choice, f"experiment={SHOWING[0]}")
    for name in SHOWING[1:]:
        left = left and left & let_through(choice, f"experiment={name}")
    assert not left


def test_a_key_that_nothing_reads_is_refused_with_the_nearest_that_is_read():
    with pytest.raises(UserError, match=r"^membr \(.*\): nothing reads it; nearest: member"):
        check_read(composed("+membr=2"), FILES)


@pytest.mark.parametrize(
    ("key", "meant"),
    [("dpo.epoch", "epochs"), ("sft.batch.micro_batch", "micro_batch_size"), ("sft.reductoin", "reduction")],
)
def test_a_key_that_a_training_has_not_is_refused_by_its_stage(key, meant):
    with pytest.raises(UserError, match=rf"^{key} \(.*\): .*; nearest: {meant}"):
        check_bound([composed(f"stage={key[:3]}", f"+{key}=2")], FILES)


def test_a_users_own_files_are_looked_through_like_ours(tmp_path):
    """A key is read that only another file of theirs refers to; one that nothing reads is named with its file."""
    own = "# @package _global_\nmine: {images: 3}\nsteps: []\n"
    files = {"own": own, "bad": f"{own}membr: 2\n", "other": "# @package _global_\nseed: ${mine.images}\n"}
    (tmp_path / "experiment").mkdir()
    for name, text in files.items():
        (tmp_path / f"experiment/{name}.yaml").write_text(text, encoding="utf-8")
    assert command("--config-dir", str(tmp_path), f"root={tmp_path}/runs", "experiment=own").returncode == 0
    done = command("--config-dir", str(tmp_path), f"root={tmp_path}/runs", "experiment=bad")
    assert done.returncode == 1
    assert "membr (experiment/bad.yaml): nothing reads it; nearest: member" in done.stderr


def command(*words):
    return Fork(["-m", "rationale", *words]).ended(300)


WRONG = [
    "sft.optim.lr=nan", "sft.optim.lr=-1e-3", "sft.optim.lr=fast", "sft.optim.lr='1e-3'",
    "sft.optim.warmup_ratio=1.5", "sft.epochs=-1", "sft.epochs=0.5", "sft.batch.micro_batch_size=0", "sft.layout=bush",
    "sft.reduction=word", "sft.group_by=question", "sft.mixture.cot=some", "sft.mixture.pretrain=-3",
    "sft.validation.fraction=2", "sft.save_every=0", "sft.max_truncated=-1", "dpo.batch.gradient_accumulation_steps=0",
    "dpo.objective.beta=0", "dpo.objective.beta=nan", "dpo.objective.loss_type=dpo",
    "dpo.objective.label_smoothing=0.6", "dpo.truncate.words=-5", "dpo.truncate.eos=often",
    "dpo.reference=thawed", "sampling.temperature.short=-1", "sampling.top_p=0", "sampling.num_samples=0",
    "sampling.max_new_tokens=many", "evaluation.max_new_tokens.cot=0", "evaluation.styles=[cot,short]",
    "pairing.low=-0.1", "pairing.partner=near", "pretrain.optim.lr=inf", "pretrain.describe_share=1.1",
    "pretrain.architecture.heads=0", "score.batch_size=0", "report.verifier.temperature=0",
    "plan.trainers=[fsdp]", "credit.threshold=0", "teacher.slip=2", "logger.mode=on", "export.form=csv",
]  # fmt: skip


@pytest.mark.parametrize("override", WRONG)
def test_a_value_of_the_wrong_kind_is_refused_by_its_key(override):
    key = override.partition("=")[0]
    cfg = composed(override)
    stages = [stage for stage in STAGES if f"{{{key.partition('.')[0]}" in FILES[f"stage/{stage}.yaml"]]
    places = [place for stage in stages for place, _ in misfits_of(cfg, stage)]
    assert key in {re.sub(r"\[\d\]$", "", place) for place in places}
    assert all(place.startswith(key) for place in places)


def test_settings_that_only_together_are_wrong_are_refused_at_their_node():
    places = [place for place, what in misfits_of(composed("pairing.low=0.9"), "pair") if "low <= high" in what]
    assert places == ["pairing"]


def test_nothing_runs_before_the_settings_of_every_step_are_looked_at(tmp_path):
    """A learning rate of the fifteenth step stops the command at the first."""
    done = command("experiment=mini_small", f"root={tmp_path}/runs", "dpo.optim.lr=-1")
    assert done.returncode == 1
    assert "dpo.optim.lr (" in done.stderr and "should be greater than 0, found -1" in done.stderr
    assert not list(tmp_path.glob("runs/*/questions"))
