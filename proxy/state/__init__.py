"""Where keys, model switches and counts are kept, and how several processes share them.

home       what every home can do
open       the home that the settings name
memory     as long as the process
sqlite     files of this machine
redis      Redis or Valkey, for several machines
counting   counting together, and alone while the common count is out of reach; reach, owed
codec      what is kept as text, and back; reader
switching  model switches as commands and the operator's listener make them
"""

from __future__ import annotations
