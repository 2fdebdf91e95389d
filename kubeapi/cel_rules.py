"""CEL rules of custom kinds (x-kubernetes-validations): checked when a CRD is written, evaluated when its objects are.

The interpreter is loaded with the first rule. What a rule may cost is known before it runs: iterations are bounded by the
nesting of its macros and by the largest list that it can see. A rule that this interpreter does not know is kept, not
evaluated, and the person is told.
"""

import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any

from kubeapi.admission import Attempt
from kubeapi.durations import parse_time
from kubeapi.errors import DUPLICATE, FORBIDDEN, INVALID, REQUIRED, Cause, invalid
from kubeapi.kinds import CUSTOM_RESOURCE_DEFINITION as CRD
from kubeapi.schema import MAX_CAUSES, json_type
from kubeapi.typed import UNSET, Type, type_of
from proto.kit.log import Logger

Json = dict[str, Any]
RULES = "x-kubernetes-validations"
REASONS = {INVALID, FORBIDDEN, REQUIRED, DUPLICATE}
MAX_RULE = 4096  # characters
MAX_NESTING = 4  # of macros
CALL_BUDGET, WRITE_BUDGET = 100_000, 300_000  # iterations: some 0.1 and 0.3 s
KEPT = 512  # compiled rules
MACROS = ("all", "exists", "exists_one", "map", "filter")
GROWING = frozenset({"join", "replace", "split", "_+_"})  # each turn may make a text as large as everything there is
KEYWORDS = frozenset(
    [
        "true",
        "false",
        "null",
        "in",
        "as",
        "break",
        "const",
        "continue",
        "else",
        "for",
        "function",
        "if",
        "import",
        "let",
        "loop",
        "package",
        "namespace",
        "return",
        "var",
        "void",
        "while",
    ]
)
BUDGET = "validation failed due to running out of cost budget, no further validation rules will be run"
_TOKEN = re.compile(
    r"""[rRbB]*(?:\"{3}.*?\"{3}|'{3}.*?'{3}|"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')|\.\s*(\w+)\s*\(|[()]""", re.DOTALL
)
_DURATION = re.compile(r"(?P<sign>-?)(?:(?P<h>\d+)h)?(?:(?P<m>\d+)m)?(?:(?P<s>\d+(?:\.\d+)?)s)?")
_LIBRARY = re.compile(r"(?<![\w.])((?:sets|math|optional|base64|lists)\.\w+)\(")
log = Logger("cel")


class BadRule(ValueError):
    """No rule at all; the sentence says where."""


class Unknown(Exception):
    """A rule that another server may know; the text says what is unknown here."""


class OverBudget(Exception):
    """It would take too long."""


class Compiled:
    """One expression: ``names`` are its variables, ``depth`` how deep its macros are nested."""

    def __init__(self, text: str) -> None:
        from cel import compile as compile_cel  # noqa: PLC0415  no server without rules needs it

        from kubeapi.cel_library import BUILT_IN, FUNCTIONS  # noqa: PLC0415

        if len(text) > MAX_RULE:
            raise BadRule(f"a rule may be {MAX_RULE} characters long")
        self.depth = nesting(text)
        try:
            self.program = compile_cel(text)
        except ValueError as error:
            said = str(error).partition("ERROR: ")[2] or str(error)
            if "unsupported syntax" in said:
                raise Unknown(said.splitlines()[0]) from error
            raise BadRule(said.splitlines()[0]) from error
        refers = self.program.references()
        known = BUILT_IN | FUNCTIONS.keys()
        strange = [name for name in refers["functions"] if name.isidentifier() and name not in known]
        if strange:
            raise Unknown(f"function {strange[0]}")
        if found := _LIBRARY.search(text):  # its functions may bear names that are known, such as `contains`
            raise Unknown(f"function {found[1]}")
        if self.depth > MAX_NESTING:
            raise BadRule(f"macros may be nested {MAX_NESTING} deep")
        self.names = frozenset(refers["variables"])
        self.splits = "split" in refers["functions"]
        self.grows = self.depth > 0 and not GROWING.isdisjoint(refers["functions"])


def nesting(text: str) -> int:
    """Return how deep macros are nested in one another."""
    stack: list[int] = []
    deepest = 0
    for found in _TOKEN.finditer(text):
        if found[0] == ")":
            if stack:
                stack.pop()
        elif found[0] == "(" or found[1]:
            stack.append(int(found[1] in MACROS) if found[1] else 0)
            deepest = max(deepest, sum(stack))
    return deepest


class CelRules:
    """``admit`` is an admission hook, after the one of the CRDs themselves. Used in the writer thread alone."""

    def __init__(self) -> None:
        self._compiled: OrderedDict[str, Compiled | None] = OrderedDict()

    def admit(self, attempt: Attempt) -> Json | None:
        """Check the rules of a CRD, or an object by the rules of its CRD. Raises 422."""
        if attempt.obj is None:
            return None
        if attempt.res == CRD and not attempt.subresource:
            self._check_definition(attempt)
        elif attempt.res.custom and attempt.res.schema is not None:
            kind = type_of(attempt.res)
            if kind.ruled:
                causes = list(_Walk(self, attempt.old is not None).check(kind, attempt.obj, attempt.old))
                if causes:
                    raise invalid(attempt.res, attempt.name, causes[:MAX_CAUSES])
        return None

    def compiled(self, text: str) -> Compiled | None:
        """Return the expression ready to run, None when it cannot be evaluated here."""
        if text not in self._compiled:
            try:
                self._compiled[text] = Compiled(text)
            except (BadRule, Unknown) as error:  # stored before we knew it, or by another server
                log.debug("a rule is not evaluated", rule=text[:200], reason=error)
                self._compiled[text] = None
            if len(self._compiled) > KEPT:
                self._compiled.popitem(last=False)
        self._compiled.move_to_end(text)
        return self._compiled[text]

    def _check_definition(self, attempt: Attempt) -> None:
        assert attempt.obj is not None
        causes: list[Cause] = []
        unchanged = _texts((attempt.old or {}).get("spec"))
        for i, version in enumerate(attempt.obj["spec"].get("versions") or ()):
            schema = (version.get("schema") or {}).get("openAPIV3Schema")
            for path, rule in _rules(schema, f"spec.versions[{i}].schema.openAPIV3Schema"):
                for key in ("rule", "messageExpression"):
                    text = rule.get(key)
                    if text is None or text in unchanged:
                        continue
                    try:
                        Compiled(str(text))
                    except BadRule as error:
                        causes.append(Cause(INVALID, f"{path}.{key}", f"Invalid value: {text[:200]!r}: {error}"))
                    except Unknown as error:
                        attempt.warn(f"{path}.{key} is stored and not evaluated by this server: {error}")
        if causes:
            raise invalid(CRD, attempt.name, causes[:MAX_CAUSES])


def _rules(schema: Any, path: str) -> Iterator[tuple[str, Json]]:
    if not isinstance(schema, Mapping):
        return
    for i, rule in enumerate(schema.get(RULES) or ()):
        yield f"{path}.{RULES}[{i}]", rule
    for name, child in (schema.get("properties") or {}).items():
        yield from _rules(child, f"{path}.properties[{name}]")
    for key in ("items", "additionalProperties"):
        yield from _rules(schema.get(key), f"{path}.{key}")


def _texts(spec: Any) -> set[str]:
    found: set[str] = set()
    for version in (spec or {}).get("versions") or ():
        for _, rule in _rules((version.get("schema") or {}).get("openAPIV3Schema"), ""):
            found |= {str(rule.get(key)) for key in ("rule", "messageExpression")}
    return found


class _Walk:
    """One object against its rules."""

    def __init__(self, rules: CelRules, is_update: bool) -> None:
        self._rules, self._is_update = rules, is_update
        self._spent = 0

    def check(self, kind: Type, obj: Json, old: Json | None) -> Iterator[Cause]:
        try:
            yield from self._node(kind, _seen(obj), UNSET if old is None else _seen(old), "")
        except OverBudget:
            yield Cause(FORBIDDEN, "", f"Forbidden: {BUDGET}")

    def _node(self, kind: Type, value: Any, old: Any, path: str) -> Iterator[Cause]:
        if value is None and not kind.nullable:
            return
        if kind.rules:
            yield from self._evaluate(kind, value, old, path)
        if isinstance(value, dict):
            before = old if isinstance(old, dict) else {}
            for name, item in value.items():
                child = kind.child(name)
                if child is not None and child.ruled:
                    inner = (
                        f"{path}.{name}" if path and name in kind.properties else f"{path}[{name}]" if path else name
                    )
                    yield from self._node(child, item, before.get(name, UNSET), inner)
        elif isinstance(value, list) and kind.item is not None and kind.item.ruled:
            before_items = old if isinstance(old, list) else []
            for i, item in enumerate(value):
                yield from self._node(kind.item, item, _same_item(kind, item, before_items), f"{path}[{i}]")

    def _evaluate(self, kind: Type, value: Any, old: Any, path: str) -> Iterator[Cause]:
        unchanged = old is not UNSET and old == value
        variables: Json = {}
        largest = _Size()
        for rule in kind.rules:
            compiled = self._rules.compiled(str(rule.get("rule")))
            if compiled is None:
                continue
            moves = "oldSelf" in compiled.names
            optional = bool(rule.get("optionalOldSelf"))
            if (moves and old is UNSET and not optional) or (not moves and unchanged):
                continue  # what has not changed may stay as it is
            if not variables:
                variables = {"self": _cel(kind, value, largest)}
                if old is not UNSET:
                    variables["oldSelf"] = _cel(kind, old, largest)
            given = {**variables, "oldSelf": _maybe(variables)} if optional else variables
            why = self._run(compiled, rule, given, largest)
            if why:
                yield _cause(kind, value, rule, path, why)

    def _run(self, compiled: Compiled, rule: Json, variables: Json, largest: "_Size") -> str:
        """Return what is wrong, "" when the rule holds. Raises OverBudget."""
        try:
            found = self._execute(compiled, variables, largest)
        except (ValueError, TypeError, KeyError, IndexError, RuntimeError, ArithmeticError) as error:
            return f"{rule.get('message') or rule['rule']}: the rule cannot be evaluated: {error}"
        if found is True:
            return ""
        if found is not False:
            return f"{rule['rule']}: the rule gives no boolean"
        return self._said(rule, variables, largest) or rule.get("message") or f"failed rule: {rule['rule']}"

    def _said(self, rule: Json, variables: Json, largest: "_Size") -> str:
        compiled = self._rules.compiled(str(rule["messageExpression"])) if rule.get("messageExpression") else None
        if compiled is None:
            return ""
        try:
            found = self._execute(compiled, variables, largest)
        except (ValueError, TypeError, KeyError, IndexError, RuntimeError, ArithmeticError):
            return ""  # the plain message does
        return found.strip() if isinstance(found, str) and "\n" not in found and len(found) <= MAX_RULE else ""

    def _execute(self, compiled: Compiled, variables: Json, largest: "_Size") -> Any:
        from cel import Context  # noqa: PLC0415

        from kubeapi.cel_library import FUNCTIONS  # noqa: PLC0415

        size = max(largest.items, largest.characters if compiled.splits else 0, 1)
        cost = size**compiled.depth * (1 + largest.text // 1000 if compiled.grows else 1)
        self._spent += cost
        if cost > CALL_BUDGET or self._spent > WRITE_BUDGET:
            raise OverBudget
        return compiled.program.execute(Context(variables, FUNCTIONS))


class _Size:
    """The largest list or map, the longest text, and all texts together, of what rules can see."""

    items = 0
    characters = 0
    text = 0


def _cel(kind: Type | None, value: Any, size: _Size) -> Any:
    """Return a value as CEL sees it: times and durations by their format, names of fields escaped."""
    if isinstance(value, dict):
        size.items = max(size.items, len(value))
        out = {}
        for name, item in value.items():
            declared = kind is not None and name in kind.properties
            out[escaped(name) if declared else name] = _cel(None if kind is None else kind.child(name), item, size)
        return out
    if isinstance(value, list):
        size.items = max(size.items, len(value))
        return [_cel(None if kind is None else kind.item, item, size) for item in value]
    if isinstance(value, str):
        size.characters = max(size.characters, len(value))
        size.text += len(value)
        if kind is not None and kind.format == "date-time":
            return parse_time(value) or value
        if kind is not None and kind.format == "duration":
            return _duration(value)
    if isinstance(value, int) and not isinstance(value, bool) and kind is not None and kind.name == "number":
        return float(value)
    return value


def _duration(text: str) -> timedelta | str:
    found = _DURATION.fullmatch(text)
    if found is None or not text.strip("-"):
        return text
    hours, minutes, seconds = (float(found[name] or 0) for name in "hms")
    out = timedelta(hours=hours, minutes=minutes, seconds=seconds)
    return -out if found["sign"] else out


def escaped(name: str) -> str:
    """Return a field's name as an identifier of CEL, by Kubernetes' rules."""
    if name in KEYWORDS:
        return f"__{name}__"
    out = name.replace("__", "__underscores__")
    for character, word in ((".", "dot"), ("-", "dash"), ("/", "slash")):
        out = out.replace(character, f"__{word}__")
    return out


def _maybe(variables: Json) -> Any:
    from cel import OptionalValue  # noqa: PLC0415

    return OptionalValue.of(variables["oldSelf"]) if "oldSelf" in variables else OptionalValue.none()


def _seen(obj: Json) -> Json:
    """Of the metadata, rules see the name."""
    metadata = {k: v for k, v in obj["metadata"].items() if k in ("name", "generateName")}
    return {**obj, "metadata": metadata}


def _same_item(kind: Type, item: Any, before: list[Any]) -> Any:
    """Return what an item was: only those of ``map`` lists have an identity."""
    key = kind.item_key(item) if kind.list_type == "map" else None
    if key is None:
        return UNSET
    return next((old for old in before if kind.item_key(old) == key), UNSET)


def _cause(kind: Type, value: Any, rule: Json, path: str, why: str) -> Cause:
    reason = rule.get("reason") if rule.get("reason") in REASONS else INVALID
    field = path + str(rule.get("fieldPath") or "")
    shown = kind.name or json_type(value)
    text = {
        INVALID: f'Invalid value: "{shown}": {why}',
        FORBIDDEN: f"Forbidden: {why}",
        REQUIRED: f"Required value: {why}",
        DUPLICATE: f'Duplicate value: "{shown}": {why}',
    }
    return Cause(str(reason), field.removeprefix("."), text[str(reason)])
