"""State in Redis or Valkey, which the processes of several machines share.

link        one connection; what is asked together is sent together
words       what Redis and the network say, in words of ours
*.lua       what runs within Redis, all or nothing
counts      what is used of the limits
registry    keys, switches and the audit
home        these together, as a home
"""

from __future__ import annotations
