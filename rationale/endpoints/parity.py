"""Does a server answer as the model does that is trained here? Prompt tokens, log-probs and greedy texts side by side.

Where the two disagree, most often on an image's tokens, a policy is trained on responses that it would not have given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from rationale.artifacts import UserError
from rationale.models.batch import Example
from rationale.models.encode import Encoder
from rationale.models.generate import Generated
from rationale.replies import Reply

Logps = Callable[[list[Example]], list[list[float]]]


def other_prompts(encoder: Encoder, asked: Sequence[Example], counts: Sequence[int]) -> str | None:
    """The first prompt of which a server read another number of tokens than this processor makes, and what to do;
    None where there is none. A count of 0 is one that the server did not say."""
    for example, count in zip(asked, counts, strict=True):
        here = encoder.prompts([example])["input_ids"].shape[1]
        if count not in (0, here):
            return (
                f"{example.question_id}: the server read {count} prompt tokens, this model {here}: image sizes or the "
                "chat template differ. Start it with the checkpoint's own processor files and template and with the "
                "settings of model.processor; see that generator.picture.longest_side shrinks no image"
            )
    return None


def compare(
    encoder: Encoder, logps: Logps, asked: list[Example], said: list[Reply], ours: list[Generated], limit: float
) -> Iterator[str]:
    """A line for each comparison; UserError with the first that fails.

    `said` and `ours` are greedy responses to `asked`, `logps` gives those of training's forward pass, and `limit` is
    how far (nats) log p of a token may lie apart: a server computes in what precision it likes.
    """
    if found := other_prompts(encoder, asked, [reply.input_tokens for reply in said]):
        raise UserError(found)
    told = ", ".join(str(reply.input_tokens) for reply in said if reply.input_tokens)
    yield f"served, prompt tokens: {told + ', as here' if told else 'the server does not say how many'}"
    mine = [
        replace(e, response=g.text, ended=g.finished, token_ids=tuple(g.token_ids))
        for e, g in zip(asked, ours, strict=True)
    ]
    theirs = [
        m if (m.response, m.ended) == (r.text.strip(), r.finished)
        else replace(m, response=r.text.strip(), ended=r.finished, token_ids=())
        for m, r in zip(mine, said, strict=True)
    ]  # fmt: skip
    found = logps([*theirs, *mine])
    yield f"served, log p: {close_logps(theirs, said, found[: len(asked)], limit)}"
    yield f"served, greedy: {same_texts(encoder, theirs, mine, found, limit)}"


def close_logps(theirs: list[Example], said: list[Reply], found: list[list[float]], limit: float) -> str:
    """Log-probs that the server gives against those `found` here, response by response where both have as many."""
    gaps, responses = [], 0
    for example, reply, here in zip(theirs, said, found, strict=True):
        # Some servers leave out the end token.
        if not reply.logps or len(here) - len(reply.logps) not in (0, int(reply.finished)):
            continue
        pairs = list(zip(reply.logps, here, strict=False))
        worst, (there, own) = max(enumerate(pairs), key=lambda pair: abs(pair[1][0] - pair[1][1]))
        if not abs(there - own) <= limit:
            raise UserError(
                f"{example.question_id}: the server gives token {worst + 1} of {example.response!r:.200} log p "
                f"{there:.3f}, this model {own:.3f} (limit {limit}): it serves other weights, or its processor makes "
                "other pixels of the image. Serve the folder that is trained from, with its processor files"
            )
        gaps += [abs(a - b) for a, b in pairs]
        responses += 1
    if not any(reply.logps for reply in said):
        return "the server gives none, so prompt tokens and texts alone are compared"
    if not gaps:
        return "not compared, for no response has as many tokens there as here"
    return (
        f"a token's within {max(gaps):.1e} of training's forward pass (mean {sum(gaps) / len(gaps):.1e}), {len(gaps)} "
        f"tokens of {responses} of {len(said)} responses"
    )


def same_texts(
    encoder: Encoder, theirs: list[Example], mine: list[Example], found: list[list[float]], limit: float
) -> str:
    """Greedy responses of the server against ours. They may part where two tokens are about as likely."""
    tokens, same = encoder.responses([*theirs, *mine]), 0
    for number, (there, here) in enumerate(zip(theirs, mine, strict=True)):
        other = number + len(theirs)
        pairs = zip(tokens[number], tokens[other], strict=False)
        parting = next((place for place, (a, b) in enumerate(pairs) if a != b), None)
        same += there == here
        if parting is not None and not found[other][parting] - found[number][parting] <= limit:
            raise UserError(
                f"{there.question_id}: the server says {there.response!r:.200}, this model {here.response!r:.200}; "
                f"their token {parting + 1} is not the likeliest here (log p {found[number][parting]:.3f} against "
                f"{found[other][parting]:.3f}). Look at what the server adds to a greedy request, as "
                "repetition_penalty of the checkpoint's generation_config, and set it in generator.options"
            )
    return f"{same} of {len(theirs)} texts are this model's" + (
        "" if same == len(theirs) else "; the others part where two tokens are about as likely, or at the limit"
    )
