"""The floor plan: who may import whom, how large a module may be. Checked from the source alone."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "proxy"
PATHS = sorted(PACKAGE.rglob("*.py"))
TREES = {path: ast.parse(path.read_text(), str(path)) for path in PATHS}

# For each room, the rooms it may import; `""` is the package itself (the version).
MAY_IMPORT = {
    "": frozenset[str](),
    "errors": frozenset[str](),
    "config": frozenset[str](),
    "core": frozenset({"", "config", "errors"}),
    "net": frozenset({"", "config", "core", "errors"}),
    "observe": frozenset({"", "config", "core", "errors"}),
    "admin": frozenset({"", "config", "core", "errors", "observe", "state"}),
    "state": frozenset({"config", "core"}),
    "store": frozenset({"config", "state"}),
    "memory": frozenset({"config", "core", "listening", "net", "state"}),
    "gate": frozenset({"config", "core", "errors"}),
    "allowance": frozenset({"config", "core", "errors", "state"}),
    "knowledge": frozenset({"config", "core", "errors"}),
    "house": frozenset(
        {"allowance", "config", "core", "errors", "gate", "knowledge", "memory", "net", "store"}
    ),
    "lane": frozenset({"core", "errors", "net"}),
    "asked": frozenset({"core", "memory", "net"}),
    "pursuit": frozenset({"asked", "core", "errors", "house", "knowledge", "lane", "net"}),
    "facts": frozenset({"allowance", "core", "errors", "memory", "net", "pursuit"}),
    "flight": frozenset(
        {
            *("asked", "config", "core", "errors", "facts", "house", "lane", "net"),
            "pursuit",
        }
    ),
    "reply": frozenset({"core", "errors", "facts", "house", "lane", "net"}),
    "listening": frozenset[str](),
    "cache": frozenset({"config", "core", "errors", "facts", "house", "net", "reply"}),
    "entry": frozenset({"core", "errors", "facts", "house", "net"}),
    "sockets": frozenset(
        {
            *("config", "core", "entry", "errors", "facts", "house", "net", "reply"),
            "responding",
        }
    ),
    "responding": frozenset(
        {"config", "core", "entry", "errors", "facts", "house", "net", "reply", "store"}
    ),
    "passing": frozenset({"core", "entry", "facts", "house", "net", "reply"}),
    "resuming": frozenset({"core", "errors", "facts", "house", "net", "reply"}),
    "forgetting": frozenset(
        {"core", "entry", "errors", "facts", "house", "memory", "net", "reply"}
    ),
    "handlers": frozenset(
        {
            *("core", "facts", "forgetting", "house", "net", "responding", "resuming", "sockets"),
        }
    ),
    "exchange": frozenset(
        {
            *("", "asked", "core", "entry", "errors", "facts", "flight", "handlers", "house"),
            *("cache", "lane", "listening", "net", "passing", "pursuit", "reply", "responding"),
        }
    ),
    "status": frozenset({"", "config", "core", "facts", "house", "net", "observe"}),
    "simulator": frozenset({""}),
    "bench": frozenset({"", "core", "errors"}),
    "sharing": frozenset({"net", "observe"}),
    "telling": frozenset(
        {
            *("config", "core", "errors", "house", "net", "observe", "sharing", "state", "status"),
            "store",
            "memory",
        }
    ),
    "pools": frozenset({"config", "net"}),
    "generation": frozenset(
        {
            *("allowance", "config", "core", "gate", "house", "knowledge", "net", "observe"),
            *("pools", "state", "store", "telling"),
            "memory",
        }
    ),
    "learning": frozenset({"core", "house", "state"}),
    "desk": frozenset(
        {
            *("admin", "config", "forgetting", "generation", "net", "state", "status", "telling"),
        }
    ),
    "app": frozenset(
        {
            *("admin", "config", "core", "desk", "errors", "exchange", "generation", "house"),
            *("learning", "net", "observe", "state", "status", "telling"),
        }
    ),
    "workers": frozenset({"", "app", "config", "net", "observe", "state"}),
    "cli": frozenset(
        {
            *("", "app", "bench", "config", "core", "net", "observe", "simulator"),
            *("state", "workers"),
        }
    ),
    "__main__": frozenset({"", "cli"}),
}
# Within core: for each part, the parts it may import. A Record and its Timeline are values that
# all of them may hold.
CORE_MAY_IMPORT = {
    "wire": frozenset({"record", "flow.timeline"}),
    "policy": frozenset({"record", "flow.timeline", "wire"}),
    "flow": frozenset({"record", "wire"}),
    "record": frozenset({"flow.timeline"}),
}
IMPURE = {"aiohttp", "asyncio", "logging", "os", "random", "socket", "time", "uvloop"}
LARGEST_MODULE = 400
LARGEST_FUNCTION = 60


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def room_of(module: str) -> str:
    return module.partition(".")[0]


def imports(tree: ast.AST) -> Iterator[str]:
    """Full names of what is imported, anywhere in the module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            # `from proxy.core import flow` names a module as `import proxy.core.flow` does.
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_imports(tree: ast.AST) -> Iterator[str]:
    """Modules of this project that are imported, without the leading `proxy.`."""
    for name in imports(tree):
        if name == "proxy" or name.startswith("proxy."):
            yield _module(name.removeprefix("proxy").removeprefix("."))


def _module(name: str) -> str:
    """The module that holds `name`: `core.record.Record` is in `core.record`."""
    while name and not _exists(name):
        name = name.rpartition(".")[0]
    return name


def _exists(name: str) -> bool:
    place = PACKAGE.joinpath(*name.split("."))
    return place.is_dir() or place.with_suffix(".py").is_file()


def wrong_arrows() -> Iterator[str]:
    for path, tree in TREES.items():
        module = name_of(path)
        room = room_of(module)
        for target in own_imports(tree):
            if room_of(target) != room and room_of(target) not in MAY_IMPORT[room]:
                yield f"{module} imports {target or 'proxy'}"


def test_every_room_is_on_the_plan() -> None:
    assert {room_of(name_of(path)) for path in PATHS} <= MAY_IMPORT.keys()


def test_arrows_between_rooms_point_one_way() -> None:
    assert list(wrong_arrows()) == []


def test_within_core_policy_and_flow_use_wire_and_never_each_other() -> None:
    wrong = []
    for path, tree in TREES.items():
        module = name_of(path).removeprefix("core.")
        if not name_of(path).startswith("core."):
            continue
        part = room_of(module)
        for target in own_imports(tree):
            inner = target.removeprefix("core.")
            if target.startswith("core.") and room_of(inner) != part:
                allowed = CORE_MAY_IMPORT[part]
                if not allowed & {inner, room_of(inner)}:
                    wrong.append(f"core.{module} imports {target}")
    assert wrong == []


def test_core_is_pure() -> None:
    wrong = [
        f"{name_of(path)} imports {name}"
        for path, tree in TREES.items()
        if room_of(name_of(path)) == "core"
        for name in imports(tree)
        if room_of(name) in IMPURE
    ]
    assert wrong == []


@pytest.mark.parametrize(
    "module",
    [
        *(
            "allowance.py",
            "exchange.py",
            "facts.py",
            "gate.py",
            "flight.py",
            "house.py",
            "knowledge.py",
            "lane.py",
        ),
        *("pursuit.py", "reply.py", "status.py"),
    ],
)
def test_the_exchange_needs_neither_aiohttp_nor_asyncio(module: str) -> None:
    names = {room_of(name) for name in imports(TREES[PACKAGE / module])}
    assert not names & {"aiohttp", "asyncio"}


def test_only_the_command_line_sees_the_environment() -> None:
    wrong = [
        f"{name_of(path)}:{node.lineno}"
        for path, tree in TREES.items()
        if room_of(name_of(path)) not in ("cli", "__main__")
        for node in ast.walk(tree)
        if (isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv") and _is_os(node))
        or (isinstance(node, ast.ImportFrom) and node.module == "os" and _names_environ(node))
    ]
    assert wrong == []


def _is_os(node: ast.Attribute) -> bool:
    return isinstance(node.value, ast.Name) and node.value.id == "os"


def _names_environ(node: ast.ImportFrom) -> bool:
    return any(alias.name in ("environ", "getenv") for alias in node.names)


def test_nothing_is_imported_relatively() -> None:
    wrong = [
        f"{name_of(path)}:{node.lineno}"
        for path, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.level > 0
    ]
    assert wrong == []


# What at the top of a module acts, and not merely defines: a loop, `with`, a bare call.
ACTING = (ast.For, ast.While, ast.With, ast.Try, ast.Delete, ast.Global, ast.Raise, ast.Assert)


def test_nothing_happens_at_import() -> None:
    wrong = []
    for path, tree in TREES.items():
        for statement in tree.body:
            bare_call = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call)
            if bare_call or isinstance(statement, ACTING):
                wrong.append(f"{name_of(path)}:{statement.lineno}")
    assert wrong == []


def test_modules_are_small() -> None:
    lengths = {name_of(path): len(path.read_text().splitlines()) for path in PATHS}
    assert {name: lines for name, lines in lengths.items() if lines > LARGEST_MODULE} == {}


def test_functions_are_small() -> None:
    wrong = {
        f"{name_of(path)}.{node.name}": lines
        for path, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if (lines := (node.end_lineno or 0) - node.lineno + 1) > LARGEST_FUNCTION
    }
    assert wrong == {}


def test_every_module_says_what_it_is_for() -> None:
    assert [name_of(path) for path, tree in TREES.items() if not ast.get_docstring(tree)] == []


def test_every_folder_of_code_is_a_package() -> None:
    """A folder without `__init__.py` is a namespace that checkers and builders may pass by."""
    folders = {path.parent for path in PATHS}
    assert [name_of(folder) for folder in folders if not (folder / "__init__.py").is_file()] == []


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("import proxy.core.record", ["core.record"]),
        ("from proxy.core.record import Record", ["core.record"]),
        ("from proxy.core import record, flow", ["core.record", "core.flow"]),
        ("from proxy import __version__", [""]),
        ("def f():\n    from proxy.net import listen", ["net.listen"]),
        ("import proxyish\nimport os", []),
    ],
)
def test_the_plan_sees_imports_in_every_spelling(source: str, names: list[str]) -> None:
    assert list(own_imports(ast.parse(source))) == names
