"""Which modules a module names in its import statements, wherever in the file they stand."""

import ast
from collections.abc import Iterator


def imported_modules(module: ast.Module, *, for_types_too: bool = True) -> Iterator[str]:
    """Yield the dotted names that `module` imports.

    `from a import b` yields `a.b`, since b may be a module. `for_types_too=False` leaves out what
    only a type checker imports.
    """
    skipped = set() if for_types_too else _type_checking_nodes(module)
    for node in ast.walk(module):
        if node in skipped:
            continue
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=str(source), names=names):
                yield from (f"{source}.{alias.name}" for alias in names)
            case _:
                pass


def is_within(name: str, package: str) -> bool:
    """Return whether the dotted `name` is `package` or lies below it."""
    return name == package or name.startswith(package + ".")


def _type_checking_nodes(module: ast.Module) -> set[ast.AST]:
    return {
        inner
        for node in ast.walk(module)
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        for statement in node.body
        for inner in ast.walk(statement)
    }
