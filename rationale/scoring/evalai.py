"""The text normaliser of the VQA evaluation (TextVQA, VQA v2)."""

from __future__ import annotations

import re
from functools import lru_cache

# facebookresearch/mmf `EvalAIAnswerProcessor`: a word that lacks one apostrophe of these gets it back. Entries that
# cannot occur in its lower-case text are left out.
_CONTRACTED = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd
he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've
needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've
somebody'll somebody's someone'd someone'd've someone'll someone's something'd something'd've something'll
that's there'd there'd've there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've
weren't what'll what're what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll
why're why's won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""
_CONTRACTIONS = {w[:i] + w[i + 1 :]: w for w in _CONTRACTED.split() for i, c in enumerate(w) if c == "'"}
_CONTRACTIONS["somebody'd"] = "somebodyd"
_WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
_DIGITS = {"none": "0"} | {word: str(i) for i, word in enumerate(_WORDS)}
_ARTICLES = frozenset(("a", "an", "the"))
_PUNCTUATION = ';/[]"{}()=+\\_-><@`!'
_FULL_STOP = re.compile(r"\.(?!\d)")


# Ten annotators repeat each other, and samples of one question its answers: near repeats, so a small cache serves.
@lru_cache(maxsize=1 << 12)
def evalai_text(text: str) -> str:
    """The text as the VQA evaluation compares it (facebookresearch/mmf `EvalAIAnswerProcessor`, same in lmms-eval).

    Lower case; "'s" a word of its own; commas and question marks gone; other punctuation gone where it touches a
    space, else a space; full stops gone unless a digit follows; "two" is "2", "none" is "0"; no articles ("A." is "").
    """
    text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    text = text.replace("\n", " ").replace("\t", " ").strip()
    kept = text
    for mark in _PUNCTUATION:
        if mark in text:
            kept = kept.replace(mark, "" if mark + " " in text or " " + mark in text else " ")
    # 32: mmf passes the flag re.UNICODE in the place of the count.
    words = (_DIGITS.get(word, word) for word in _FULL_STOP.sub("", kept, count=32).split())
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)
