"""Keeps the texts of statements: one that differs from an earlier one only in its values is not written again.

Writing a statement takes peewee several times as long as SQLite takes to run it. A walk over the statement finds its
form, which is all that its text depends on, and its values. A text is kept only if peewee, when it wrote it, put the
same values in the same order; what the walk does not know is written by peewee each time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from peewee import (
    OP,
    SQL,
    Context,
    Expression,
    Field,
    ForeignKeyField,
    Function,
    Join,
    Model,
    ModelDelete,
    ModelInsert,
    ModelSelect,
    ModelUpdate,
    Negated,
    Node,
    Ordering,
    Select,
)

from ostler_control.models.direct import Direct
from ostler_control.models.queries import Change, Selection
from ostler_control.models.values import AS_GIVEN, in_order, inserted
from ostler_control.statements import is_plain

# Forms beyond that are those of lists of ever other lengths, and the like.
_MAX_TEXTS = 5_000
# Longer lists would make a form for each length.
_MAX_LIST = 64
_LISTS = (list, tuple, set, frozenset)
# Classes of values that are compared with most, and of columns.
_SIMPLE = frozenset({bool, int, str})
_COLUMNS = frozenset({ForeignKeyField, *AS_GIVEN})
_SELECTS = (ModelSelect, Select, Selection)
_UPDATES = (ModelUpdate, Change)


class _UnusualError(Exception):
    """The statement has something that the walk does not know."""


class Texts:
    """The texts of one database's statements. Thread-safe."""

    def __init__(self) -> None:
        # By form: the text, and what keeps the form's ids from being given to other objects; None for a form whose text
        # cannot be kept.
        self._texts: dict[tuple[object, ...], tuple[str, object] | None] = {}

    def write(self, statement: Node, context: Callable[[], Context]) -> tuple[str, list[object]]:
        """A statement's text and values, as peewee writes them in a new context."""
        kept: object = None
        if isinstance(statement, Direct):
            key, found = statement.form, statement.values
        else:
            try:
                form = _Form(statement)
            except _UnusualError:
                return written(statement, context)
            key, found, kept = tuple(form.parts), form.values, form.kept
        if text_of := self._texts.get(key):
            return text_of[0], found
        text, values = written(statement, context)
        if key not in self._texts:
            if len(self._texts) >= _MAX_TEXTS:
                self._texts.clear()
            self._texts[key] = (text, kept) if comparable(values) == comparable(found) else None
        return text, values


def comparable(values: list[object]) -> list[object]:
    """Values that are equal when the database gets the same: psycopg wraps each binary one in an object of its own."""
    return [getattr(value, "obj", value) for value in values]


def written(statement: Node, context: Callable[[], Context]) -> tuple[str, list[object]]:
    """What peewee writes."""
    text, values = context().parse(statement)  # type: ignore[no-untyped-call]
    return text, values


class _Form:
    """What a statement's text depends on (`parts`, by kind, id and length), and its values in the text's order."""

    __slots__ = ("kept", "parts", "values")

    def __init__(self, statement: Node) -> None:
        self.parts: list[object] = []
        self.values: list[object] = []
        self.kept: list[object] = []
        kind = type(statement)
        if kind in _SELECTS:
            self._select(statement)
        elif kind is ModelInsert:
            self._insert(statement)
        elif kind in _UPDATES:
            self._update(statement)
        elif kind is ModelDelete:
            self._write(statement)
        else:
            raise _UnusualError

    # Peewee's nodes keep their parts in attributes without types; `vars` reads them.

    def _select(self, select: Node) -> None:
        of = vars(select)
        if of["_cte_list"] or of["_group_by"] or of["_having"] or of["_windows"] or of["_lateral"] or of["_distinct"]:
            raise _UnusualError
        self.parts += ("select", of["_alias"], of["_simple_distinct"], of["_distinct"] is None)
        columns = of["_returning"]
        if of.get("_is_default"):  # all columns of its model, which is among the sources
            self.parts.append(len(columns))
        else:
            self._all(columns)
        for source in of["_from_list"]:
            self._source(source)
        self._rest(select)
        if (lock := of["_for_update"]) is not None:
            if lock._of is not None:
                raise _UnusualError
            self.parts += (lock._expr, lock._nowait, lock._skip_locked)

    def _insert(self, insert: Node) -> None:
        of = vars(insert)
        row, conflict = of["_insert"], of["_on_conflict"]
        if type(row) is not dict or of["_columns"]:
            raise _UnusualError
        if conflict is not None and conflict._action != "IGNORE":
            raise _UnusualError
        names = tuple([field.name for field in row if isinstance(field, Field) and field.model is of["model"]])
        columns = inserted(of["model"], names) if len(names) == len(row) else None
        values = None if columns is None else in_order(columns, list(row.values()))
        if values is None:
            raise _UnusualError
        self.parts += ("insert", conflict is not None, *names)
        self.values += values
        self._write(insert)

    def _update(self, update: Node) -> None:
        of = vars(update)
        if of["_from"]:
            raise _UnusualError
        self.parts.append("update")
        for field, value in sorted(of["_update"].items(), key=_sort_key):
            self._field(field)
            if isinstance(value, Node) and not isinstance(value, Model):
                self._node(value)
            else:
                self._value(field, value)
        self._write(update)

    def _write(self, statement: Node) -> None:
        of = vars(statement)
        if of["_cte_list"]:
            raise _UnusualError
        self.parts += (type(statement), id(of["table"]))
        self.kept.append(of["table"])
        self._rest(statement)
        self._all(of["_returning"] or ())

    def _rest(self, statement: Node) -> None:
        of = vars(statement)
        if (where := of["_where"]) is not None:
            self.parts.append("where")
            self._node(where)
        if order := of["_order_by"]:
            self.parts.append("order")
            self._all(order)
        for name in ("_limit", "_offset"):
            limit = of[name]
            if limit is not None:
                if type(limit) is not int:
                    raise _UnusualError
                self.parts.append(name)
                self.values.append(limit)

    def _source(self, source: object) -> None:
        if isinstance(source, type) and issubclass(source, Model):
            self.parts.append(id(source))
            self.kept.append(source)
        elif isinstance(source, _SELECTS):
            self._node(source)
        elif type(source) is Join:
            of = vars(source)
            self.parts += ("join", of["_alias"], of["join_type"])
            self._source(of["lhs"])
            self._source(of["rhs"])
            self._node(of["_on"])
        else:
            raise _UnusualError

    def _all(self, nodes: Iterable[object]) -> None:
        for node in nodes:
            self._node(node)
        self.parts.append("end")

    def _node(self, node: object) -> None:
        kind = type(node)
        if kind is Expression:
            self._expression(vars(node))
        elif isinstance(node, Field):
            self._field(node)
        elif kind is Negated:
            self.parts.append("not")
            self._node(vars(node)["node"])
        elif isinstance(node, _SELECTS) and kind in _SELECTS:
            self._select(node)
        elif kind is Ordering:
            of = vars(node)
            if of["nulls"] or of["collation"]:
                raise _UnusualError
            self.parts.append(of["direction"])
            self._node(of["node"])
        elif kind is SQL:
            of = vars(node)
            if of["params"]:
                raise _UnusualError
            self.parts += ("sql", of["sql"])
        elif kind is Function:
            of = vars(node)
            if of["_filter"] is not None or of["_order_by"] is not None:
                raise _UnusualError
            self.parts += ("function", of["name"])
            self._all(of["arguments"])
        else:
            raise _UnusualError

    def _field(self, field: Field[object]) -> None:
        if type(field) not in _COLUMNS and not is_plain(type(field)):
            raise _UnusualError
        self.parts.append(id(field))
        self.kept.append(field)

    def _expression(self, of: Mapping[str, object]) -> None:
        left, op, right = of["lhs"], of["op"], of["rhs"]
        self.parts += (op, of["flat"])
        if isinstance(left, Field):
            self._field(left)
            if right.__class__ in _SIMPLE:
                self._value(left, right)
                return
        else:
            self._node(left)
        if isinstance(right, Node) and not isinstance(right, Model):
            self._node(right)
        elif right is None and op in (OP.IS, OP.IS_NOT):
            self.parts.append("null")
        elif not isinstance(left, Field):
            raise _UnusualError
        elif isinstance(right, _LISTS):
            if len(right) > _MAX_LIST:
                raise _UnusualError
            self.parts += ("list", len(right))
            for value in right:
                self._value(left, value)
        else:
            self._value(left, right)

    def _value(self, field: Field[object], value: object) -> None:
        kind = value.__class__
        held = field.rel_field if type(field) is ForeignKeyField else field
        if kind in _SIMPLE and AS_GIVEN.get(type(held)) is kind:
            self.parts.append(kind)
            self.values.append(value)
            return
        converted = field.db_value(value)  # type: ignore[no-untyped-call]
        if isinstance(converted, (Node, type, *_LISTS, dict)):
            raise _UnusualError
        self.parts.append(type(value))
        self.values.append(converted)


def _sort_key(item: tuple[Field[object], object]) -> tuple[int, int]:
    if not isinstance(item[0], Field):
        raise _UnusualError
    key: tuple[int, int] = vars(item[0])["_sort_key"]
    return key
