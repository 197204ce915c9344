"""Docstrings below the fields of a dataclass: written once there, read for the command line.

Python keeps no docstrings of fields, so the source is parsed: about a millisecond per class.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import textwrap


def field_texts(cls: type) -> dict[str, str]:
    """Return {field: the text below it, on one line} for the fields that have one, in order.

    Raises `OSError` if the class's source is not available.
    """
    (body,) = (
        node.body for node in ast.parse(textwrap.dedent(inspect.getsource(cls))).body if isinstance(node, ast.ClassDef)
    )
    return {
        ast.unparse(field.target): " ".join(str(ast.literal_eval(text.value)).split())
        for field, text in itertools.pairwise(body)
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr)
    }
