"""Text as what an index finds: stems of words, pairs of Chinese characters.

SQLite's own `trigram` tokenizer sees three characters at a time in every script, and most Chinese
words have two: a question about a 名字 would not find 我的名字是小明. So text is split here, in the
same way where it is kept and where it is looked for.

- Words of an alphabet: the first letters, without what English appends, so that `names` finds
  `name`, and `deployed` finds `deployment`. What has a digit in it is a name, and is whole.
- What is written without blanks (Chinese, Japanese, Korean, Thai and its neighbours): each pair of
  characters, and each character for what is one alone.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Final, NamedTuple

MOST_WANTED: Final = 64
"""Terms of one query; of more, every so many-th."""
_MOST: Final = 8000
"""Distinct terms of one text."""
_LONGEST_WORD: Final = 32
"""Characters of a word that count: what is longer is no word."""
_ENDINGS: Final = ("ing", "es", "ed", "s", "e")
_SHORTEST_STEM: Final = 3
_LONGEST_STEM: Final = 6
"""Letters: `postgr` is of Postgres and of PostgreSQL, `allerg` of allergies and of allergic."""
_HEAD: Final = 300
_TAIL: Final = 700
"""Characters of a long query that count: people ask first, or last."""

# Thai, Lao, Burmese and Khmer; Han with its extensions and compatibility forms, kana, Hangul.
_SIGNS: Final = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"
    "\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
    "\U00020000-\U0003ffff"
)
_PIECE: Final = re.compile(rf"([{_SIGNS}]+)|([^\W_{_SIGNS}]+)")

# Words that nearly every text has. They are kept, and only looked for when there is nothing else.
_STOP_WORDS: Final = """
    a about again all also am an and any are as at be been but by can could did do does for from get
    had has have he her him his how i if in into is it its just know let like me more my no not now
    of on or our out please remember said say she should so some tell than that the their them then
    there these they this to told up us use very want was we were what when where which who whose
    why will with would you your s t re ll ve d m
"""
_STOP_SIGNS: Final = frozenset(
    "的了是我你您他她它们在有和就不都一个上也很到说要去会着没好自己这那什么怎样吗呢吧啊呀哪谁几为与及或但"
    "而被把让从对给请还记得过来再可以能"
)


_COMMON: Final = frozenset(_STOP_WORDS.split())


class Term(NamedTuple):
    """What a text has, and what that tells."""

    text: str
    weight: float
    """1 for a word, or for a pair of characters."""


def terms(text: str) -> Iterable[str]:
    """Each term of `text` once."""
    found = (term.text for piece in _pieces(text) for term in piece.terms)
    return list(islice(dict.fromkeys(found), _MOST))


def wanted(query: str) -> list[Term]:
    """What to look for, at most MOST_WANTED terms; nothing where `query` has no letter."""
    if len(query) > _HEAD + _TAIL:
        query = f"{query[:_HEAD]} {query[-_TAIL:]}"
    telling: dict[str, Term] = {}
    common: dict[str, Term] = {}
    for piece in _pieces(query):
        for term in piece.terms:
            to = common if piece.is_common(term.text) else telling
            to.setdefault(term.text, term)
    found = list((telling or common).values())
    step = -(-len(found) // MOST_WANTED) or 1
    return found[::step]


class _Word:
    """Of an alphabet."""

    def __init__(self, word: str) -> None:
        self._common = word in _COMMON
        self.terms = [Term(_stem(word), 1.0)]

    def is_common(self, term: str) -> bool:
        return self._common


def _stem(word: str) -> str:
    if not word.isalpha():
        return word[:_LONGEST_WORD]
    for ending in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= _SHORTEST_STEM:
            word = word.removesuffix(ending)
            break
    return word[:_LONGEST_STEM]


class _Signs:
    """A run of characters that each stand for a syllable or a word."""

    def __init__(self, signs: str) -> None:
        pairs = [Term(signs[at : at + 2], 1.0) for at in range(len(signs) - 1)]
        self.terms = pairs + [Term(one, _ALONE) for one in signs]

    def is_common(self, term: str) -> bool:
        return all(sign in _STOP_SIGNS for sign in term)


_ALONE: Final = 0.3
"""Weight of one character, which is in many words."""


def _pieces(text: str) -> Iterator[_Word | _Signs]:
    for signs, word in _PIECE.findall(unicodedata.normalize("NFKC", text).casefold()):
        yield _Signs(signs) if signs else _Word(word)
