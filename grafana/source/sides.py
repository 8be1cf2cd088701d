"""Who is to be asked: the stages by who spends their time, the ends of exchanges by whose fault."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType

from proxy.errors import ClientGone, ProxyError, Source, TooBusy

PARTIES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "client": ("receive",),
        "proxy": ("route", "commit"),
        "failed attempts": ("retry",),
        "places": ("admission",),
        "connecting": ("connect",),
        "upstream": ("upstream_headers", "first_byte", "first_token"),
        "reasoning": ("reasoning",),
    }
)
"""The stages up to the first content, by who spends the time."""


def _codes(error: type[ProxyError], source: Source) -> Iterator[str]:
    if error.source == source and error not in (ClientGone, TooBusy):
        yield error.code
    for kind in error.__subclasses__():
        yield from _codes(kind, source)


def _pattern(source: Source) -> str:
    """A matcher of the outcomes that are the fault of one side."""
    return f'outcome=~"{"|".join(sorted(set(_codes(ProxyError, source))))}"'


BAD_ENDS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "upstream": (_pattern(Source.UPSTREAM), 'status_class!="4xx"'),
        "upstream said no": (_pattern(Source.UPSTREAM), 'status_class="4xx"'),
        "proxy": (_pattern(Source.PROXY),),
        "places": (f'outcome="{TooBusy.code}"',),
        "request": (_pattern(Source.CLIENT),),
        "client left": (f'outcome="{ClientGone.code}"',),
    }
)
"""How an exchange can end but by completing: whose fault it is, and the matchers that find it."""
