"""State in files of this machine, which several processes may use at once.

database   a file opened, checked and brought to this version's form
thread     one thread that owns one file; what waits there waits for nobody else
registry   keys, switches and the audit
counts     what is used of the limits, in a file beside it that may be lost
home       these together, as a home
"""

from __future__ import annotations
