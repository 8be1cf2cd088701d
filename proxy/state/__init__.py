"""Where keys, model switches and counts are kept, and how several processes share them.

home     what every home can do
memory   as long as the process
"""

from __future__ import annotations
