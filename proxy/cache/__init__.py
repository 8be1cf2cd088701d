"""The same answer to the same question of the same caller, without asking the API.

cached      what the cache is to one exchange: its look, and what is told again
keeper      who hears an answer that is asked for, and keeps it
fetch       a question that is being asked, and who waits for its answer

What makes two questions the same is in `proxy.core.policy.cache`, how an answer is kept in
`proxy.core.flow.kept`, where in `proxy.store`.
"""

from __future__ import annotations
