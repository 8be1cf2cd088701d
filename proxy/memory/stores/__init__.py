"""Where memories are kept.

terms       text as what an index finds: parts of words, pairs of Chinese characters
names       what callers and sessions are called in a file
file        memories in one SQLite file, for the thread that owns it
reader      searches in that file
sqlite      that file as a store: its threads, and what becomes of a damaged one
fortune     what is told of a store that fails
answers     what a memory service answers, checked
http        a memory service, called over HTTP
open        the store that the settings name
"""

from __future__ import annotations
