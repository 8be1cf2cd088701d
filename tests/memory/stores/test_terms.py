"""Text as what an index finds, and how well that finds what answers a question."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.memory.store import Turn
from proxy.memory.stores.file import MemoryFile
from proxy.memory.stores.reader import MemoryReader
from proxy.memory.stores.terms import MOST_WANTED, terms, wanted
from tests.memory.stores.cases import CHINESE, ENGLISH, SMALL_TALK

HOSTILE = (
    *('"', "'", '" OR 1 --', "NEAR(a b)", "a*", "^a", "terms : x", "a AND", "NOT", "(", "-a", "+"),
    *("\0", "a\0b", "\ud800", "é\u0301", "👩‍👩‍👧", "𠮷野家", "\u202e", "%", "_", "名", "A", ""),
    *(" ", "§1", '§1" OR "§2', "';DROP TABLE items;--", "a" * 5_000, "名" * 5_000),
)
"""Queries that are more than words to somebody."""


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Dog", ["dog"]),
        ("a I", ["a", "i"]),
        ("名字", ["名字", "名", "字"]),
        ("我的Go", ["我的", "我", "的", "go"]),
        ("ＧＯ", ["go"]),  # full width
        ("a_b", ["a", "b"]),
        ("LH1234 deployments", ["lh1234", "deploy"]),
        ("ไทย", ["ไท", "ทย", *"ไทย"]),
        ("日本語カナ", ["日本", "本語", "語カ", "カナ", *"日本語カナ"]),
        ("\0\"'*()^:-👩", []),
        ("", []),
    ],
)
def test_a_text_has_stems_of_words_and_pairs_of_signs(text: str, found: list[str]) -> None:
    assert list(terms(text)) == found


def test_words_of_one_stem_have_terms_in_common() -> None:
    for one, *others in (
        ("name", "names", "named", "Naming"),
        ("deploy", "deployed", "deployment"),
        ("allergy", "allergies", "allergic"),
        ("cost", "costs", "costed"),
        ("Škoda", "škoda"),
    ):
        for other in others:
            assert list(terms(one)) == list(terms(other))


def test_words_that_all_texts_have_are_looked_for_only_when_there_is_nothing_else() -> None:
    assert {term.text for term in wanted("What is the dog?")} == {"dog"}
    assert {term.text for term in wanted("我的狗")} == {"的狗", "狗"}
    assert wanted("what is the")
    assert wanted("什么")


def test_of_a_long_query_both_ends_count() -> None:
    long = "zebra " + " ".join(f"word{number}" for number in range(5000)) + " giraffe"
    found = {term.text for term in wanted(long)}
    assert len(found) <= MOST_WANTED
    assert "zebra" in found
    assert not {f"word{number}" for number in range(100, 4500)} & found


@given(st.text(max_size=400) | st.sampled_from(HOSTILE))
def test_no_term_is_anything_but_a_term(text: str) -> None:
    looked_for = wanted(text)
    assert len(looked_for) <= MOST_WANTED
    for term in looked_for:
        assert 1 <= len(term.text) <= 32
        assert not set(term.text) & set(" \t\r\n\0\"'§*^:()+-")
        assert 0 < term.weight <= 1
    assert {term.text for term in looked_for} <= set(terms(text)) or len(text) > 1000


# --- how well it finds -------------------------------------------------------------------------


def _facts() -> list[str]:
    talk = [f"{text} ({number})" for number in range(12) for text in SMALL_TALK]
    return [fact for fact, _ in ENGLISH + CHINESE] + talk


def _trigrams(facts: Iterable[str]) -> sqlite3.Connection:
    """What SQLite itself offers, as a baseline: its trigram tokenizer, and BM25."""
    db = sqlite3.connect(":memory:")
    db.execute("CREATE VIRTUAL TABLE facts USING fts5 (text, tokenize = 'trigram')")
    db.executemany("INSERT INTO facts VALUES (?)", [(fact,) for fact in facts])
    return db


def _by_trigrams(db: sqlite3.Connection, query: str, most: int) -> list[str]:
    three = {query[at : at + 3].replace('"', "") for at in range(len(query) - 2)}
    match = " OR ".join(f'"{one}"' for one in three)
    statement = "SELECT text FROM facts WHERE facts MATCH ? ORDER BY rank LIMIT ?"
    return [text for (text,) in db.execute(statement, (match, most))]


def test_what_answers_a_question_is_found_in_both_languages(tmp_path: Path) -> None:
    """Of 232 memories; a search for one has no room for what is merely the latest."""
    file = MemoryFile(tmp_path / "m.db", 1.0, 1 << 30)
    for at, fact in enumerate(_facts()):
        file.add("a", "s", [Turn("user", fact, float(at))], 1000.0)
    reader, baseline = MemoryReader(tmp_path / "m.db", 1.0), _trigrams(_facts())
    right = {}
    for language, cases in (("English", ENGLISH), ("Chinese", CHINESE)):
        for most in (1, 4):
            ours = [
                fact in [item.text for item in reader.search("a", "s", query, most)]
                for fact, query in cases
            ]
            theirs = [fact in _by_trigrams(baseline, query, most) for fact, query in cases]
            right[language, most] = sum(ours)
            print(f"\n{language}, within {most}: {sum(ours)}/{len(ours)},", end=" ")
            print(f"by SQLite's trigrams and BM25 {sum(theirs)}/{len(theirs)}")
    reader.close()
    file.close()
    baseline.close()
    assert right["English", 1] >= 18
    assert right["English", 4] >= 19
    assert right["Chinese", 1] >= 18
    assert right["Chinese", 4] >= 19
