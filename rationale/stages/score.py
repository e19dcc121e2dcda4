"""Per-token log-probabilities of stored responses under a model: DPO's reference, or one side of the verifier."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from rationale.artifacts import InputPath, UserError, write_json
from rationale.models.batch import Example
from rationale.models.checks import check_end, check_rows
from rationale.models.encode import Encoder, in_chunks
from rationale.models.fingerprints import context_hash, scored_with
from rationale.models.logps import computing
from rationale.models.prefill import candidate_logps, read_candidates
from rationale.models.prefix import layout_for
from rationale.models.response import Truncation, prompted, response_example
from rationale.models.vlm import VLM
from rationale.schema import Pair, Response, ResponseKey, ResponseLogps, iter_jsonl, to_line
from rationale.settings import Count, Layout, typed
from rationale.shards import ALONE, Processes, in_shards
from rationale.stages.inputs import check_known, need, questions_by_id


def texts_of(rows: str) -> list[ResponseKey]:
    """Distinct responses of a pair or sample artifact, in order."""
    pairs = Path(rows) / "pairs.jsonl"
    if pairs.is_file():
        found = [key for p in iter_jsonl(pairs, Pair) for key in p.keys]
    else:
        found = [r.key for r in iter_jsonl(need(rows, "rows.jsonl"), Response)]
    return list(dict.fromkeys(found))


@typed
def run(
    questions: InputPath,
    rows: InputPath,
    model: Callable[..., VLM],
    truncate: Truncation,
    batch_size: Count,
    layout: Layout,
    out: Path,
    precision: str = "32-true",
    processes: Processes = ALONE,
) -> dict:
    """Write one ResponseLogps row for each distinct response of a pair or sample artifact.

    `truncate` and `precision` are those that DPO trains with. They go into `scored_with.json` with the hashes of
    weights and processor: stage dpo refuses stored values that were made with anything else. In half precision
    responses are read as training reads them, without a cache: another order of operations rounds otherwise there, by
    up to 0.2 nats a token.
    """
    found = questions_by_id(questions)
    texts = texts_of(rows)
    check_known(Path(rows), {t[0] for t in texts}, found)
    if not texts:
        raise UserError(f"{rows}: no response to score")
    share = processes.join(out)
    vlm = model()
    vlm.model.eval()
    encoder = Encoder(vlm.processor, truncate.tokens, layout_for(vlm.model, layout))
    prompts = {t[:2]: prompted(found[t[0]], Path(questions), t[1]) for t in texts}
    contexts = {key: context_hash(e.images, encoder.render(e)) for key, e in prompts.items()}

    def example(key: ResponseKey) -> Example:
        return response_example(key, found[key[0]], Path(questions), truncate)

    check_rows(vlm, encoder, list(map(example, texts)))
    check_end(vlm, encoder)
    # Rows: responses of like length together. Tree: those of one question, which share its prefix.
    texts.sort(key=lambda t: (t[0], t[1], len(t[2]), t[2:]) if encoder.layout == "tree" else (len(t[2]), t[0], t[2:]))

    def ahead(batch: list[ResponseKey]) -> Any:
        examples, whole = list(map(example, batch)), precision.startswith("32")
        return read_candidates(vlm.model, encoder, examples) if whole else encoder.batch(examples)

    def work(batch: list[ResponseKey], found: Any) -> list[str]:
        with computing(precision, vlm.model.device):
            found = candidate_logps(vlm.model, encoder, list(map(example, batch)), found)
        return [
            to_line(ResponseLogps(*key[:4], [round(v, 6) for v in logps], contexts[key[:2]], list(key[4])))
            for key, logps in zip(batch, found, strict=True)
        ]

    in_shards(out, in_chunks(texts, batch_size), work, "score", share, ahead)
    write_json(out / "scored_with.json", scored_with(vlm, truncate, precision))
    return {"responses": len(texts)}
