"""Text that no code of ours expects and any data set may hold, numbers as they are written, and JSON of any shape."""

from __future__ import annotations

from hypothesis import strategies as st

_NUMBERS = """
0 -0 7 42 007 3.14 .5 12. 1e5 1E-3 -2.5e+10 1e999 nan NaN inf -Infinity 1,234,567.5 1,00 1_000 12% 12.5% 12% % $3
$1,200.50 −5 –5 + - . 1/2 3-5 3–5 [1,2] (1,2) 1:2 ５ １２．５ ٣ ۴٫۵ ² x² ½ Ⅳ 四 5million 0x1F 1.2.3 \\frac{1}{2}
"""
NUMBERS = _NUMBERS.split()
# Blank or without a glyph, bidirectional marks, line breaks that `splitlines` knows and JSON does not, combining marks.
ODD = [
    "", " ", "\t", "\n", "\r\n", "\x00", "\x1b[31m", "\x7f", "\x85", "\u00a0", "\u2028", "\u2029", "\u200b", "\u3000",
    "\ufeff", "\ufffd", "\uffff", "\u202eabc\u202c", "\u2067שלום\u2069", "مرحبا ٣", "e\u0301\u0301\u0301", "ﬁ", "İ",
    "ẞ", "Σας", "👩‍👩‍👧", "🇩🇪", "\U0010ffff", "图表",
]  # fmt: skip
SYNTAX = [
    "### Answer:", "### Answer: ", "###", "### **Answer:** ", "**", "\\boxed{", "}", "{", "$", "(", ")", "[", "]", "A",
    "B)", "(C)", "the answer is ", "Answer: ", "option B", "not ", "=", "<image>", "<script>", "</s>", "<|im_end|>",
    "%s", "{0}", "\\u0041", '"', "'", "../", "1", " cat", "is ", "so ",
]  # fmt: skip

pieces = st.sampled_from(NUMBERS + ODD + SYNTAX) | st.text(max_size=8)
texts = st.lists(pieces, max_size=6).map("".join) | st.sampled_from(NUMBERS)
said = texts.filter(str.strip)  # what is more than blanks
long_texts = st.builds(lambda piece, tail: piece * (100_000 // len(piece)) + tail, pieces.filter(bool), pieces)
torn = st.builds("{}{}{}".format, texts, st.sampled_from(["\ud800", "\udfff", "\ude00\ud83d"]), texts)

numbers = st.integers() | st.integers(-(10**400), 10**400) | st.floats()
json_values = st.recursive(
    st.none() | st.booleans() | numbers | texts | torn,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)
