"""The answer in a response: the text behind the marker, and the option that it states."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice

from rationale.schema import LETTERS
from rationale.scoring.dress import COMMAND, boxed, normal, plain_text, undressed

_MARKER = re.compile(
    r"#{1,6}[ \t]*[*_`]*[ \t]*(?:the[ \t]+)?(?:final[ \t]+)?answer[ \t]*[*_`]*(?:[ \t]*[:：=][*_`]*|[ \t]*$)",
    re.I | re.M,
)
_FIRST_LINE = re.compile(r"\s*+([^\n\v\f\r\x1c-\x1e\x85\u2028\u2029]*)")
_CLOSING = re.compile(r"""([*_`]+|["'”’])\.?$""")
_OPENS = str.maketrans("”’", "“‘")
_PLACEHOLDER = re.compile(r"[<\[{(][^<>\[\]{}()]{0,40}\b(?:answer|letter|option)\b[^<>\[\]{}()]{0,40}[>\]})]", re.I)
_ON_ITS_OWN = re.compile(r"""(?:^|[\n\r.!?:;…。)\]}])[\s>*_`"'“-]*$""")
_QUOTED = re.compile(r"""[\w,;:(][ \t]*[("'`“‘«][*_ \t]*\Z""")


def extract_answer(text: str, style: str) -> str | None:
    """The final answer of a response in `style` ("direct" or "cot"), undressed, or None where it gives none.

    "cot": the first line behind the last "### Answer:" that has text, however it is written ("**### final answer** :",
    or a heading with the answer below it); a marker that is quoted in a remark is none. "direct": the whole text; if
    the marker is there, what follows it.
    """
    if style not in ("direct", "cot"):
        raise ValueError(f"style {style!r} is neither 'direct' nor 'cot'")
    text = normal(text)
    markers = list(_MARKER.finditer(text))
    if (marked := _behind_marker(text, markers)) is not None or style == "cot":
        return marked
    return undressed(text[: markers[0].start()] if markers else text) or None


def _behind_marker(text: str, markers: list[re.Match]) -> str | None:
    """The answer behind the last marker; one within a sentence counts where no other stands on its own."""
    end, within = len(text), None
    for marker in reversed(markers):
        answer = _first_line(text, marker, end)
        before = text[max(0, marker.start() - 12) : marker.start()]
        end = marker.start()
        if not answer or _PLACEHOLDER.fullmatch(answer) or _QUOTED.search(before):
            continue
        if _ON_ITS_OWN.search(before):
            return answer
        within = within or answer
    return within


def _first_line(text: str, marker: re.Match, end: int) -> str:
    """The first line with text behind a marker, without the end of an emphasis or a quote that began before it."""
    line = _FIRST_LINE.match(text, marker.end(), end)[1].strip()
    closing = _CLOSING.search(line[-8:])
    if closing and line.count(closing[1]) % 2:
        opened = text[max(0, marker.start() - 4) : marker.end()].rpartition("\n")[2]
        if closing[1][0].translate(_OPENS) in opened:
            line = line.removesuffix(closing[0]).rstrip() or line
    return undressed(line)


# What an option is named by: a letter in brackets or alone; not that of "N/A", "Q&A", "A+", "A = 5", "A-shaped".
_LETTER = r"(?:[(\[]\s*[A-Za-z]\s*[)\]]|(?<![\w.'/&-])[A-Za-z](?![\w'’/&-]|\.\w|\s*[=+^<>≈]))"
_TOKEN = re.compile(_LETTER)
_LETTERS = re.compile(rf"(?:either |both )?{_LETTER}(?:[ \t,;/&]*(?:\b(?:and|or)\b[ \t]*)?{_LETTER})*", re.I)
_ALSO_LETTER = re.compile(
    r"\s*(?:,?\s*\b(?:and|or) (?:maybe |perhaps |possibly )?[(\[]?([b-hj-z]|[a-z](?=[)\]]))(?![\w'])|"
    r"[&/,]\s*[(\[]?([a-z])[)\]])"
)
_ALSO = re.compile(r"\s*(?:,? and |,? or |[,/&])\s*")
_NEXT_WORD = re.compile(r"[ \t]+([^\W\d_]+)")
# After an option these words are grammatical; after an article or a pronoun they hardly are.
_AFTER_OPTION = frozenset(["and", "as", "because", "but", "due", "for", "given", "is", "or", "since", "which"])
_ENDS = re.compile(
    r"\s*(?:$|[.,;:!?]+(?:\s|$)|[(\[)\]—]|(?:because|since|as)\b)|"
    r"(?P<weak>\s*(?:one\s*(?:$|[.,;:!?(])|(?:option|choice|answer|which|due|given|while|that|not|rather|instead|but)\b))"
)
_DECORATION = re.compile(rf'{COMMAND}|\\[()\[\]]|[*{{}}$`"“”]|(?<!\w)_+|_+(?!\w)')
_WIDE = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}
_EDGES = " \t\r\n.,:;!?'()[]"
_ARTICLE = re.compile(r"(?:the|an?) (?=\S)")
_TRUTHS = frozenset(["yes", "no", "true", "false"])
_LONGEST_SENTENCE = 600


def _clean(text: str) -> str:
    return _DECORATION.sub("", text.translate(_WIDE)).strip()


def _words(text: str) -> str:
    """The text as choices are compared: lower case, single spaces, no decoration, no article in front."""
    return _ARTICLE.sub("", " ".join(_clean(text).lower().split()), count=1)


class _Options:
    """The choices of a question as they may be named. A reading is a letter, "" (several, or none of them) or None."""

    def __init__(self, choices: list[str]) -> None:
        self.choices = [normal(choice) for choice in choices[: len(LETTERS)]]
        self.letters = LETTERS[: len(choices)]
        self.keys = [_words(choice).rstrip(".,;:! ") for choice in self.choices]
        self.are_truths = _TRUTHS.issuperset(self.keys)
        self.reach = max(map(len, self.choices), default=0) + 100

    def of_text(self, text: str) -> str | None:
        """The option with this text."""
        words = _words(text).rstrip(".,;:! ")
        same = [i for i, key in enumerate(self.keys) if key == words and key]
        if len(same) > 1:
            same = [i for i in same if plain_text(self.choices[i]) == plain_text(text)]
        return LETTERS[same[0]] if len(same) == 1 else None

    def alone(self, text: str) -> str | None:
        """The option that is all that a text says: a letter, the text of a choice, or both."""
        lone = text.strip(_EDGES).upper()
        if len(lone) == 1 and lone in self.letters:
            return lone
        if (by_text := self.of_text(text)) is not None or len(text) > self.reach:
            return by_text
        text = text[_FILLER.match(text).end() :]
        named = _LETTERS.match(text)
        if named is None or (letter := self._one_of(named)) is None:
            return None
        rest = _words(text[named.end() :].strip(_EDGES + "-–—"))
        return letter if not rest or (letter and rest == self.keys[LETTERS.index(letter)]) else None

    def at_head(self, text: str, in_prose: bool = False) -> str | None:
        """The option that a text begins with; in prose a bare lower-case letter, or any among truths, is no option."""
        text = text[: self.reach]
        named = _LETTERS.match(text)
        if named and not (in_prose and (self.are_truths or (named[0].islower() and named[0][0] not in "(["))):
            letter = self._one_of(named)
            if letter is not None:
                return letter
        return self.text_at_head(text)

    def _one_of(self, named: re.Match) -> str | None:
        found = []
        for token in _TOKEN.finditer(named.string, named.start(), named.end()):
            if self._reads_as_word(token):
                break
            found.append(token[0].strip("([ )]").upper())
        if not found:
            return None
        rest = _words(named.string[token.end() : token.end() + self.reach]).lstrip(").:] ")
        if found[0] in self.letters:
            rest = rest.removeprefix(self.keys[LETTERS.index(found[0])])
        also = _ALSO_LETTER.match(rest)
        found += [(also[1] or also[2]).upper()] if also else []
        valid = set(found) & set(self.letters)
        return valid.pop() if len(valid) == 1 else ""

    def text_at_head(self, text: str, opening: bool = False) -> str | None:
        """The option whose text a line begins with, and behind which it pauses or gives reasons."""
        words = _words(text[: self.reach].partition("\n")[0]).removeprefix("either ").removeprefix("both ")
        for key, letter in sorted(zip(self.keys, self.letters, strict=True), key=lambda pair: -len(pair[0])):
            if key and words.startswith(key) and not words[len(key) : len(key) + 1].isalnum():
                also = _ALSO.match(words, len(key))
                rest = _ARTICLE.sub("", words[also.end() :], count=1) if also else ""
                if any(k and k != key and rest.startswith(k) and _ENDS.match(rest, len(k)) for k in self.keys):
                    return ""
                end = _ENDS.match(words, len(key))
                if end and not (opening and end["weak"]):
                    return letter if self.keys.count(key) == 1 else None
        return None

    def _reads_as_word(self, token: re.Match) -> bool:
        """True for a bare "A" or "I" in prose; "A cat" still names the option where choice A is "cat"."""
        if token[0] not in "AIai":
            return False
        word = _NEXT_WORD.match(token.string, token.end())
        if word is None or word[1].lower() in _AFTER_OPTION:
            return False
        index = LETTERS.index(token[0].upper())
        rest = token.string[token.end() : token.end() + self.reach].partition("\n")[0]
        return not (index < len(self.keys) and _words(rest).rstrip(".,;:! ") == self.keys[index])


_FILLERS = (
    "so|therefore|thus|hence|then|most likely|likely|probably|clearly|indeed|simply|closest to|about|approximately|"
    "around|roughly|also|actually|the|correct|final|option|choice|letter|answer"
)
_FILLER = re.compile(rf"(?:[\s:,]|\b(?:{_FILLERS})\b)*", re.I)
_ANSWER_IS = (
    r"\b(?:answers?|option|choice|letter)\b(?:\s+(?:choice|option|letter)\b)?"
    r"(?:\s+(?:to|for|of|here|that|i|we|from|among|in|given)\b(?:\s+[\w'-]+){0,14}?)?[\s,]*"
    r"(?:(?:is|are|was|be|would be|should be|must be|will be|has to be)\b|[:=])|答案[是为:]*"
)
_CUE = re.compile(
    rf"(?:{_ANSWER_IS}|\b(?:I|we)(?:'d|'ll| would| will)? (?:choose|select|pick|go with|say)\b|"
    rf"\b(?:corresponds? to|match(?:es)?(?: with)?) (?:the )?(?:option|choice|answer)\b){_FILLER.pattern}|"
    rf"(?P<right>{_LETTER})\s+(?:is|would be|must be|seems)\s+(?:\w+ly\s+)?(?:the\s+)?(?:only\s+|most\s+)?"
    r"(?:correct|right(?! (?:of|to|angle|side))|answer|"
    r"(?:best|appropriate|accurate|reasonable|suitable|likely|likeliest|plausible|closest) (?:answer|option|choice))\b",
    re.I,
)
_MOST_CUES = 64
_COPULA = re.compile(rf"(?:\b(?:is|are|was|were|be|but|equals?|means|it['’]s|that['’]s)\b|=){_FILLER.pattern}", re.I)
_DOUBTFUL = re.compile(r"\b(?:if|whether|determine|assume|suppose)\b", re.I)
_CONCLUDES = re.compile(r"(?:so|thus|hence|therefore|overall|finally|consequently|in conclusion)\b", re.I)
_OPENINGS = re.compile(
    r"(?:^|(?<=[.!?])[ \t]+|\n[ \t]*)(?:[(\[]?([A-Z])[)\].:](?!\w)|[(\[]?([a-z])[)\]](?!\w)|([A-Z])\s+[-–—]\s|"
    r"([A-Z]),?\s+(?:because|since|as)\b)"
)
_SENTENCE_BREAK = re.compile(r"(?<=[.!?])(?<!\b[A-Z]\.)\s+|\n+")
_POLITE = re.compile(r"(?:i hope|hope this|let me know|please |is there any|do you have|feel free|if you |thank)", re.I)
_MARKED = re.compile(r"\(([A-Z])\)|\b(?i:option|choice) [(\[]?([A-Za-z])\b[)\]]?")
_REJECTED = re.compile(
    r"\s+(?:is|are|was|seems)\s+(?:the |an? |clearly )?(?:not|too|wrong|false|in\w+|im\w+|un\w+|eliminated|ruled)\b"
)
_LABEL = re.compile(
    r"\b(?:not|panel|figure|fig\.?|graph|plot|image|point|circle|line|equation|step|part|row|column|curve)[ \t]*$", re.I
)


def behind_answer_cues(text: str) -> Iterator[str]:
    """What follows each "answer is" for a few hundred characters, the last first."""
    return (text[cue.end() : cue.end() + _LONGEST_SENTENCE] for cue in _cues(text) if not cue["right"])


def _cues(text: str) -> Iterator[re.Match]:
    """The last first; of very many the last ones only."""
    return islice(reversed(list(_CUE.finditer(text))), _MOST_CUES)


def sentences(text: str) -> list[str]:
    """The sentences and lines of a text, without what only takes leave."""
    found = (sentence.strip() for sentence in _SENTENCE_BREAK.split(text))
    return [sentence for sentence in found if sentence and not _POLITE.match(sentence)]


def extract_choice(answer: str, choices: list[str]) -> str | None:
    """The letter of the option that `answer` states, or None where it states none or several.

    Of a text with \\boxed{} only the last box is read; where it names no option, what comes behind it. In this order:
    the whole text, or the last line alone, as a letter, the text of a choice or both; the last "answer is ..." or "(B)
    is correct"; the first line alone; the only letter that opens a line ("C) ..."); the last or first sentence that
    says "No, ..." or "It is the red one."; the only option spoken of and not rejected. Case, an article before a choice
    and dress say nothing; "A" and "I" before a word are an article and a pronoun. A letter beyond the choices is None.
    """
    options, text = _Options(choices), normal(answer)
    for part in boxed(text) or (text,):
        found = next((found for found in _readings(_clean(part), options) if found is not None), None)
        if found is not None:
            return found or None
    return None


def _readings(text: str, options: _Options) -> Iterator[str | None]:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if lines:
        yield options.alone(text)
        yield _line_alone(lines[::-1], options)
        yield from _cued(text, options)
        yield _line_alone(lines, options)
        yield _opening(text, options)
        yield _in_sentences(text, options)
        yield _spoken_of(text, options)


def _line_alone(lines: list[str], options: _Options) -> str | None:
    """The first line as an option; not where the next has another letter, as in a list of them."""
    found = options.alone(lines[0])
    listed = found and len(lines) > 1 and _LETTERS.match(lines[1]) and options.alone(lines[1]) not in (None, found)
    return None if listed else found


def _cued(text: str, options: _Options) -> Iterator[str | None]:
    for cue in _cues(text):
        yield options.alone(cue["right"]) if cue["right"] else options.at_head(text[cue.end() :])


def _opening(text: str, options: _Options) -> str | None:
    """The only letter that opens a line or a sentence."""
    openings = list(_OPENINGS.finditer(text))
    letters = {"".join(filter(None, opening.groups())).upper() for opening in openings}
    if len(letters) != 1 or _REJECTED.match(text, openings[0].end()):
        return None
    return options.at_head(text[openings[0].start() :][: options.reach].lstrip())


def _in_sentences(text: str, options: _Options) -> str | None:
    """What the last sentence says, or the first; the last wins only as a conclusion where they differ."""
    first, last = sentences(text[:_LONGEST_SENTENCE])[:1], sentences(text[-_LONGEST_SENTENCE:])[-1:]
    found = [_in_sentence(sentence, options) or None for sentence in first + last]
    if len(set(found)) == 2 and None not in found and not _CONCLUDES.match(last[0]):
        return None
    return next((letter for letter in reversed(found) if letter), None)


def _in_sentence(sentence: str, options: _Options) -> str | None:
    if opening := options.text_at_head(sentence[_FILLER.match(sentence).end() :], opening=True):
        return opening
    letters = {
        options.at_head(sentence[copula.end() :], in_prose=True)
        for copula in islice(_COPULA.finditer(sentence), 16)
        if not _DOUBTFUL.search(sentence, 0, copula.start())
    } - {None}
    return letters.pop() if len(letters) == 1 else None


def _spoken_of(text: str, options: _Options) -> str | None:
    """The only option marked "(C)" or "option C" that is not rejected; among truths letters name points and lines."""
    if options.are_truths:
        return None
    kept = [
        mark[1] or mark[2].upper()
        for mark in _MARKED.finditer(text)
        if not (_LABEL.search(text, max(0, mark.start() - 12), mark.start()) or _REJECTED.match(text, mark.end()))
    ]
    letters = set(kept) & set(options.letters)
    return letters.pop() if len(letters) == 1 else None
