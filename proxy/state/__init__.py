"""Where keys, model switches and counts are kept, and how several processes share them.

home        what every home can do; read it first
open        the home that the settings name
memory      as long as the process
sqlite/     in files of this machine
redis/      in Redis or Valkey
counting    counting together, and alone while the common count is out of reach
codec       what is kept, as JSON text, and back
issuing     keys, and
switching   switches, as operators change them: each with its entry in the audit
"""

from __future__ import annotations
