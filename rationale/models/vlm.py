"""A vision-language model and its processor, loaded from a hub id or a folder that `save_pretrained` wrote."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from rationale.artifacts import InputPath, UserError
from rationale.models.device import device_of, use
from rationale.models.families import base_of, can_share, has_adapter, is_in
from rationale.models.prefix import enable
from rationale.models.quantised import config_of, prepared


@dataclass(slots=True)
class VLM:
    """Model and processor; `source` is where they came from, `start` reads that model again where it is quantised."""

    model: nn.Module
    processor: Any
    source: str
    start: Callable[[], nn.Module] | None = None

    @property
    def tokenizer(self) -> Any:
        return self.processor.tokenizer

    def save(self, folder: Path, weights: dict[str, Tensor] | None = None) -> None:
        """A plain transformers folder that `from_pretrained` loads anywhere; LoRA weights are merged in, and for peft
        the adapter goes to `adapter/` beside it. `weights` is the state dict where the model holds a part (ZeRO-3)."""
        model = self.model
        if has_adapter(model):
            model = self._apart(weights)
            # "auto" would ask the hub for the vocabulary of the starting model.
            model.save_pretrained(folder.parent / "adapter", save_embedding_layers=False)
            model = model.merge_and_unload(safe_merge=True)
        elif weights is not None:
            model = _with_weights(model, weights)
        model.save_pretrained(folder)
        self.processor.tokenizer.backend_tokenizer.no_padding()  # else how it was last used would be saved with it
        self.processor.save_pretrained(folder)

    def _apart(self, weights: dict[str, Tensor] | None) -> Any:
        """The LoRA model once more, on the CPU, so that merging leaves `model` as it is. Adapters are added to the
        weights that training started from: their 4-bit approximation would keep its error for good."""
        if self.start is None:
            return _with_weights(self.model, weights or _on_cpu(self.model))
        import peft

        built = peft.get_peft_model(self.start(), deepcopy(self.model.peft_config["default"]))
        peft.set_peft_model_state_dict(
            built, peft.get_peft_model_state_dict(self.model, state_dict=weights, save_embedding_layers=False)
        )
        return built


def _on_cpu(model: nn.Module) -> dict[str, Tensor]:
    """The state dict; tied weights stay one tensor."""
    copies: dict[int, Tensor] = {}
    named = model.state_dict(keep_vars=True).items()
    return {name: copies.setdefault(id(value), value.detach().cpu()) for name, value in named}


def _with_weights(model: nn.Module, weights: dict[str, Tensor]) -> nn.Module:
    """A model built like this one that holds `weights`."""
    base = base_of(model)
    with torch.device("meta"):
        built = type(base)(base.config)
        if has_adapter(model):
            import peft

            built = peft.get_peft_model(built, deepcopy(model.peft_config["default"]))
    built.load_state_dict(weights, assign=True)
    return built


def load(
    path: InputPath,
    revision: str | None = None,
    dtype: str = "float32",
    attention: str = "sdpa",
    lora: dict[str, Any] | None = None,
    processor: dict[str, Any] | None = None,
    family: str | None = None,
    gradient_checkpointing: bool = False,
    quantization: dict[str, Any] | None = None,
    device: str | None = None,
) -> VLM:
    """Weights, processor and, where `lora` is given, a fresh LoRA adapter (keywords of peft.LoraConfig).

    `processor` are settings of the processor and its image processor. `family` is the model_type that the checkpoint
    must have. `quantization` (keywords of transformers.BitsAndBytesConfig) holds the weights beneath the adapter in 4
    bits. `device` (models.device) is where the weights are read to; None is for training, whose strategy places them.

    safetensors only, no remote code. A checkpoint that lacks weights of the architecture that its config names,
    or holds others, is refused: training would start from random parts without a word.
    """
    check_path(path)
    with loading(path):
        found = AutoConfig.from_pretrained(path, revision=revision, trust_remote_code=False).model_type
    if family not in (None, found):
        raise UserError(f"{path}: a model of family {found}, not {family}; choose model=... for it, or model.path")
    loaded_processor = read_processor(path, revision, processor)
    place = None if device is None else use(device_of(device))
    read = partial(read_model, path, revision, dtype, attention)
    model = read(place) if quantization is None else prepared(read(place, config_of(quantization, lora)))
    if attention == "sdpa" and can_share(model):
        enable(model)
    if gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        # That kind needs no gradient at a frozen embedding: it would send backward through a frozen vision tower too.
        model.disable_input_require_grads()
    if lora is not None:
        import peft  # heavy, and without LoRA not needed

        try:
            model = peft.get_peft_model(model, peft.LoraConfig(**lora, revision=revision))
        except (TypeError, ValueError) as error:
            raise UserError(f"lora: {error}") from error
    return VLM(model, loaded_processor, path, None if quantization is None else read)


def read_processor(path: InputPath, revision: str | None = None, settings: dict[str, Any] | None = None) -> Any:
    """A checkpoint's processor with `settings` of it and its image processor; no weights are read."""
    check_path(path)
    with loading(path):
        found = AutoProcessor.from_pretrained(path, revision=revision, trust_remote_code=False)
    if settings:
        configure(found, settings)
    return found


def check_path(path: str) -> None:
    """Refuse what can be neither a model's folder nor a hub id."""
    local = Path(path).expanduser()
    if (local / "adapter_config.json").is_file():
        raise UserError(
            f"{path}: a LoRA adapter alone; set model.path to the merged model, which trainings write beside it"
        )
    if path.startswith((".", "/", "~", "runs", "experiments")) and not (local / "config.json").is_file():
        raise UserError(
            f"{path}: no model there (config.json is missing); run the stage that makes it, or set model.path"
        )
    if not local.exists() and path.count("/") != 1:
        raise UserError(f"{path}: neither a folder nor a hub id of the form owner/name; set model.path")


@contextmanager
def loading(path: str) -> Iterator[None]:
    """What transformers raises of a checkpoint, or for want of a package, in one line that says what to do."""
    try:
        yield
    except ImportError as error:
        raise UserError(
            f"{path}: a package that its classes need is missing: {_first_line(error)} (the documented installation "
            "brings torchvision and num2words; otherwise: pip install the one named)"
        ) from error
    except (OSError, ValueError, RuntimeError, LookupError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: cannot be loaded as a vision-language model: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return next(filter(None, map(str.strip, str(error).splitlines())), type(error).__name__)


def configure(processor: Any, wanted: dict[str, Any]) -> None:
    """Give a processor and its image processor the settings `wanted`, which must then be in force.

    The image processor is built anew from what the checkpoint's file came to, with the settings in place: handed over
    while the file is read, `size` gives way to the file's own `max_pixels` without a word.
    """
    kind = type(processor.image_processor)
    known = kind.valid_kwargs.__annotations__
    own = wanted.keys() & inspect.signature(type(processor).__init__).parameters.keys() - known.keys()
    for name in own:  # such as LLaVA's num_additional_image_tokens
        setattr(processor, name, wanted[name])
    wanted = {name: value for name, value in wanted.items() if name not in own}
    if unknown := sorted(wanted.keys() - known.keys()):  # transformers keeps them without a word
        raise UserError(f"processor: {kind.__name__} knows no {unknown}, only {sorted(known)}")
    built = kind.from_dict(processor.image_processor.to_dict() | deepcopy(wanted))
    found = built.to_dict() | {k: v for k, v in _always(processor).items() if k in wanted}
    if ignored := sorted(name for name, value in wanted.items() if found.get(name) != value):
        raise UserError(
            "; ".join(
                f"processor.{n}={wanted[n]}: {kind.__name__} would do {found.get(n)} all the same" for n in ignored
            )
        )
    processor.image_processor = built


def _always(processor: Any) -> dict[str, Any]:
    """What a processor tells its image processor in every call, whatever that one's settings are."""
    older = getattr(getattr(processor, "valid_processor_kwargs", None), "_defaults", {})  # before transformers 5.23
    return older.get("images_kwargs", {}) | (getattr(processor, "images_kwargs", None) or {})


def read_model(
    path: str, revision: str | None, dtype: str, attention: str, place: torch.device | None = None,
    quantization: Any = None,
) -> nn.Module:  # fmt: skip
    """The weights, whole, on the device `place` or else on the CPU."""
    with loading(path):
        model, info = AutoModelForImageTextToText.from_pretrained(
            path, revision=revision, trust_remote_code=False, dtype=getattr(torch, dtype), use_safetensors=True,
            attn_implementation=attention, output_loading_info=True, quantization_config=quantization,
            # Of quantised weights the default is the first GPU, for every process of a training.
            device_map={"": place or "cpu"} if place or quantization else None,
        )  # fmt: skip
    wrong = {kind: sorted(info[kind]) for kind in ("missing_keys", "unexpected_keys", "mismatched_keys") if info[kind]}
    if wrong:
        shown = "; ".join(f"{kind} {len(keys)}, for example {keys[0]}" for kind, keys in wrong.items())
        raise UserError(
            f"{path}: the weights do not fit {type(model).__name__} ({shown}); use a checkpoint of this architecture"
        )
    return model


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Within, the model is in evaluation mode; afterwards every module is in its own mode again."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def disable_dropout(model: nn.Module) -> None:
    """Zero every dropout, modules and rates kept as floats alike: the preference loss compares two passes, and with
    noise in either the first loss would differ from log 2."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name in ("dropout", "attention_dropout", "activation_dropout", "hidden_dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)


def freeze(model: nn.Module, components: Iterable[str]) -> None:
    """Stop gradients of the parameters of these (models.families.is_in); one that matches nothing is an error."""
    for component in components:
        matched = [p for name, p in model.named_parameters() if is_in(model, component, name)]
        if not matched:
            raise UserError(
                f"freeze: no parameter name holds {component!r}; names look like {next(iter(model.state_dict()))!r}"
            )
        for parameter in matched:
            parameter.requires_grad_(False)
