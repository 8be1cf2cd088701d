"""What the simulated model says: canned sentences, cut into pieces the size of its tokens."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import cycle
from random import Random

_ANSWERS_EN = (
    "Machine learning is the craft of letting a program find the rule instead of writing it down.",
    "It reads examples, makes a guess, measures how wrong the guess was and corrects itself a bit.",
    "Three ideas carry most of it: data, a model with knobs to turn, and a loss.",
    "The loss says in one number how far a rule is from the data.",
    "What matters is not how well the examples are repeated, but how well something new is met.",
    "That is why some examples are kept back for the end.",
    "A simple rule that is nearly right often beats a clever one that knows only the past.",
    "A tide table is a small case of the same thing: years of water levels go in.",
    "A handful of waves come out, and tomorrow's harbour is predicted to the minute.",
)
_ANSWERS_ZH = (
    "机器学习是让程序自己从例子里找出规律的方法。",
    "它先看数据，再做猜测，量一量错了多少，然后一点一点地改正。",
    "其中有三个基本概念：数据、可以调节的模型和损失函数。",
    "损失函数用一个数字告诉我们还差多远。",
    "真正重要的不是把旧例子背得多好，而是遇到新情况时做得多好。",
    "所以总要留出一部分数据不参加训练，最后用它来检验。",
    "简单而大致正确的规则，常常胜过复杂的规则。",
    "潮汐表就是一个小例子：输入多年的水位，得到几条波浪。🌊",
    "于是明天的港口也能预报到分钟。",
)
_THOUGHTS_EN = (
    "The user wants a clear answer, so I should decide what to say first and what to leave out.",
    "A definition, then the parts, then an example would be a good order.",
    "Is the definition too narrow?",
    "It should cover learning with and without labels.",
    "I will keep it general and let the example carry the detail.",
    "Short sentences are easier to follow, and nothing here needs a formula.",
)
_THOUGHTS_ZH = (
    "用户想要一个清楚的回答，我先想好要说什么，不说什么。",
    "先给定义，再讲组成部分，最后举一个例子。",
    "这个定义会不会太窄？",
    "有标注和没有标注的情况都要包括进去。",
    "说得一般一些，细节留给例子。",
    "句子短一点更容易读懂，这里不需要公式。",
)
_PARAGRAPH = 3
"""Sentences in a paragraph."""
_WORD = re.compile(r" ?[A-Za-z0-9'-]+|\s+|[^\sA-Za-z0-9]")
_CHINESE = re.compile(r"[\u4e00-\u9fff]")
_CHINESE_RUN = re.compile(r"[\u4e00-\u9fff]+")


def is_chinese(text: str) -> bool:
    """Whether an answer to this text should be Chinese."""
    return _CHINESE.search(text) is not None


def estimate_tokens(text: str) -> int:
    """About how many tokens a text has: 1.6 Chinese characters each, or 4 of anything else."""
    chinese = sum(len(run) for run in _CHINESE_RUN.findall(text))
    return round(chinese / 1.6 + (len(text) - chinese) / 4)


def answer(chinese: bool, random: Random) -> Iterator[str]:
    """Pieces of an answer without end."""
    return _endless(_ANSWERS_ZH if chinese else _ANSWERS_EN, random)


def thought(chinese: bool, random: Random) -> Iterator[str]:
    """Pieces of reasoning without end; the first one is a line feed, as the real models begin."""
    yield "\n"
    yield from _endless(_THOUGHTS_ZH if chinese else _THOUGHTS_EN, random)


def _endless(sentences: tuple[str, ...], random: Random) -> Iterator[str]:
    order = list(sentences)
    random.shuffle(order)
    for count, sentence in enumerate(cycle(order)):
        opens = count % _PARAGRAPH == 0
        if opens and count:
            yield "\n\n"
        yield from pieces(sentence if opens or is_chinese(sentence) else " " + sentence, random)


def pieces(text: str, random: Random) -> Iterator[str]:
    """The text in token-like pieces: a word with its space, or one to three Chinese characters."""
    at = 0
    while at < len(text):
        piece = _next_piece(text, at, random)
        at += len(piece)
        yield piece


def _next_piece(text: str, at: int, random: Random) -> str:
    run = _CHINESE_RUN.match(text, at)
    if run is not None:
        return run.group()[: random.randint(1, 3)]
    word = _WORD.match(text, at)
    return text[at] if word is None else word.group()
