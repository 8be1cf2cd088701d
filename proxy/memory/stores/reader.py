"""Searches in the file of memories."""

from __future__ import annotations

import math
import sqlite3
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from proxy.memory.store import Item
from proxy.memory.stores.names import Names
from proxy.memory.stores.terms import wanted
from proxy.state.sqlite.database import told, transaction


class MemoryReader:
    """Searches in a file that is open already; a search waits for nobody who writes."""

    def __init__(self, path: Path, busy: float, wall: Callable[[], float] = time.time) -> None:
        self._path = path
        self._wall = wall
        with told(path):
            self._db = sqlite3.connect(path, timeout=busy, isolation_level=None)
            self._db.execute("PRAGMA query_only=ON")
            self._db.create_function("rarity", 2, _rarity, deterministic=True)
            self._names = Names(self._db)

    def close(self) -> None:
        with told(self._path):
            self._db.close()

    def search(self, scope: str, session: str, query: str, most: int) -> list[Item]:
        with told(self._path), transaction(self._db, "BEGIN"):
            name = self._names.session(scope, session)
            row = self._db.execute("SELECT number FROM sessions WHERE name = ?", (name,)).fetchone()
            if row is None:
                return []
            found = self._fitting(row[0], query, most)
            found |= {
                id_: found.get(id_, 0.0)
                for (id_,) in self._db.execute(
                    "SELECT id FROM items WHERE session = ? AND expires > ?"
                    " ORDER BY id DESC LIMIT ?",
                    (row[0], self._wall(), most),
                )
            }
            return self._read(_chosen(found, most))

    def _fitting(self, session: int, query: str, most: int) -> dict[int, float]:
        """Scores by id, of what fits best."""
        looked_for = wanted(query)
        if not looked_for:
            return {}
        values: list[object] = [part for term in looked_for for part in (session, term.text)]
        for number, term in enumerate(looked_for):
            values += [number, term.weight]
        values += [session, session, self._wall(), most]
        rows = self._db.execute(_search(len(looked_for)), values).fetchall()
        whole = sum(term.weight for term in looked_for)
        least = min(_LEAST, whole / 2.0)
        best = rows[0][1] if rows else 0.0
        return {
            id_: score
            for id_, score, weight in rows
            if weight >= least and score >= best * _BESIDE_THE_BEST
        }

    def _read(self, ids: Iterable[tuple[int, float]]) -> list[Item]:
        """In the order in which they were said."""
        items = []
        for id_, score in ids:
            row = self._db.execute(
                "SELECT at, id, role, text FROM items WHERE id = ?", (id_,)
            ).fetchone()
            items.append((row, score))
        return [Item(text, role, at, score) for (at, _, role, text), score in sorted(items)]


_LEAST: Final = 0.5
"""Weight of terms that what fits has in common with a query: half a word."""
_BESIDE_THE_BEST: Final = 0.3
"""Of the best score: what has less does not fit."""


_FEW: Final = 500
"""The latest memories with a term that are looked at: what more of them have tells little."""


def _search(number: int) -> str:
    """The statement for so many terms. Values: the session and each term; each term's number and
    weight; the session, twice; now; how many. Rows: id, score and weight, the best first.

    What is newer has up to a tenth more."""
    hits = " UNION ALL ".join(
        f"SELECT * FROM (SELECT {at}, item FROM words WHERE session = ? AND term = ?"
        f" ORDER BY item DESC LIMIT {_FEW})"
        for at in range(number)
    )
    weights = ", ".join(["(?, ?)"] * number)
    return f"""
        WITH hits (term, id) AS ({hits}),
        weights (term, weight) AS (VALUES {weights}),
        counts (term, number) AS (SELECT term, count(*) FROM hits GROUP BY term),
        size (items) AS (SELECT count(*) FROM items WHERE session = ?),
        worth (term, weight, score) AS (
            SELECT term, weight, weight * rarity(number, items)
            FROM counts JOIN weights USING (term), size
        ),
        fits (id, score, weight) AS (
            SELECT id, sum(score), sum(weight) FROM hits JOIN worth USING (term) GROUP BY id
        )
        SELECT fits.id,
            fits.score * (1.0 + 0.1 * row_number() OVER (ORDER BY fits.id) / count(*) OVER ())
                AS score,
            fits.weight
        FROM fits JOIN items ON items.id = fits.id
        WHERE items.session = ? AND items.expires > ?
        ORDER BY score DESC, fits.id DESC LIMIT ?
    """


def _rarity(number: int, items: int) -> float:
    """What a term tells that is in so many of so many items: BM25's idf, never below zero.

    Of what is in more than a few nobody counts how many have it: half of them, say."""
    if number >= _FEW:
        number = max(number, items // 2)
    return math.log1p((max(items - number, 0) + 0.5) / (number + 0.5))


def _chosen(found: dict[int, float], most: int) -> list[tuple[int, float]]:
    """A quarter of them the latest, then what fits best, then what is later."""
    latest = sorted(found.items(), reverse=True)
    kept = latest[: most // 4]
    rest = sorted(latest[most // 4 :], key=lambda one: one[1], reverse=True)
    return kept + rest[: most - len(kept)]
