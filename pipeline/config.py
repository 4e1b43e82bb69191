"""How a recipe is read: files that extend files, overrides `a.b=c`, one validation, origins, fingerprint.

The steps: read YAML 1.2 with line numbers, merge plain mappings (bases left to right, then the file, then the
overrides), validate once, freeze. Nothing is mutated afterwards. Where a mapping names another `kind` than the one
below it, it replaces that mapping instead of merging with it. An override `a.kind=b` keeps what was said about keys
that both kinds have from a common base: another decoder keeps the encoder.
"""

from __future__ import annotations

import base64
import difflib
import hashlib
import itertools
import json
import os
import re
import stat
import types
import typing
import zlib
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import YAMLError

from pipeline.errors import RecipeError

INLINE_PREFIX = "inline:"

_MAX_BYTES: Final = 4 << 20
"""Of a recipe file, and of an inline recipe when it is unpacked: a hundred times what people write."""
_MAX_NODES: Final = 100_000
"""Values of a recipe with its aliases written out."""
_MAX_DEPTH: Final = 100
_MAX_FILES: Final = 100
"""That one recipe extends, each counted as often as it is read."""
_MAX_BITS: Final = 64
_COLOR_COMMENT: Final = re.compile(r"[^#]*(?:[:,-]\s+|\[\s*)(#[0-9a-fA-F]{6})\b")
_IN_BRACKETS: Final = re.compile(r"[{\[,]\s*(?:[^:{}\[\],]+:\s+)?([@`%][^,}\]]*)")
_QUOTED: Final = {
    "*": "an alias",
    "&": "an anchor",
    "{": "a mapping",
    "[": "a list",
    "@": "a reserved sign",
    "`": "a reserved sign",
    "%": "a directive",
    "!": "a tag",
}
"""What YAML takes a value for that begins with this sign and is not quoted."""

Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    """One branch of a recipe: closed (unknown keys are errors), frozen, documented by the string under each field."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        allow_inf_nan=False,
        validate_default=True,
        protected_namespaces=(),
    )


def of_kind(value: Any, kind: str) -> Any:
    """A mapping with this `kind`, if it names none."""
    return {"kind": kind, **value} if isinstance(value, Mapping) else value


SectionT = TypeVar("SectionT", bound=Section)
Origins = dict[str, str]


def load(cls: type[SectionT], source: str | Path, overrides: Sequence[str] | Mapping[str, Any] = ()) -> SectionT:
    """Read a recipe file (or an `inline:` string made by `inline`) and validate it once.

    Raises:
        RecipeError: the file is missing or is no YAML, or any value is wrong; all errors are named at once.
    """
    tree, _ = load_tree(source, overrides, cls)
    return validate(cls, tree, str(source) if not str(source).startswith(INLINE_PREFIX) else "recipe")


def load_tree(
    source: str | Path, overrides: Sequence[str] | Mapping[str, Any] = (), cls: type[Section] = Section
) -> tuple[dict[str, Any], Origins]:
    """Merged plain mapping of a recipe of class `cls`, and for each dotted path the `file:line` or `override` that set
    it."""
    origins: Origins = {}
    if str(source).startswith(INLINE_PREFIX):
        tree = _read_inline(str(source))
        origins.update({path: "inline" for path, _ in leaves(tree)})
    else:
        tree = _read(Path(source), origins, (), [])
    for path, value in _parse(overrides).items():
        for lost in _set(tree, path, value, cls):
            _forget(origins, lost)
        _forget(origins, path)
        for leaf, _ in leaves({path: value}):
            origins[leaf] = "override"
    return tree, origins


def validate(cls: type[SectionT], tree: Mapping[str, Any], where: str = "recipe") -> SectionT:
    """Validate a plain mapping into a section, or say everything that is wrong with it at once."""
    try:
        return cls.model_validate(tree)
    except ValidationError as error:
        lines = sorted({_describe(cls, dict(item)) for item in error.errors()})
        raise RecipeError(
            f"{where}: {len(lines)} error{'s' if len(lines) > 1 else ''}\n  " + "\n  ".join(lines),
            "`segpipe recipe schema` lists every key",
        ) from None


def replace(section: SectionT, overrides: Sequence[str] | Mapping[str, Any]) -> SectionT:
    """A new validated section with the overrides applied; the old one is untouched."""
    tree = section.model_dump(mode="json")
    for path, value in _parse(overrides).items():
        _set(tree, path, value, type(section))
    return validate(type(section), tree)


def fingerprint(section: Section, without: Sequence[str] = ("compute",)) -> str:
    """12 hex digits of what is computed: the canonical JSON without the named top-level keys."""
    tree = {k: v for k, v in section.model_dump(mode="json").items() if k not in without}
    canonical = json.dumps(tree, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def inline(section: Section) -> str:
    """The whole section as one shell-safe word, so that a job needs no file on the cluster."""
    packed = zlib.compress(json.dumps(section.model_dump(mode="json")).encode(), 9)
    return INLINE_PREFIX + base64.urlsafe_b64encode(packed).decode()


def leaves(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted path and value of every leaf of a plain tree; lists count as leaves."""
    if isinstance(tree, Mapping) and tree:
        for key, value in tree.items():
            yield from leaves(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, tree


def _read_inline(text: str) -> dict[str, Any]:
    try:
        unpacking = zlib.decompressobj()
        packed = base64.urlsafe_b64decode(text.removeprefix(INLINE_PREFIX))
        plain = unpacking.decompress(packed, _MAX_BYTES)
        tree = json.loads(plain) if unpacking.eof else None
        _check_tree(tree)
    except (ValueError, zlib.error, RecursionError):
        tree = None
    if not isinstance(tree, dict):
        raise RecipeError("the inline recipe is damaged", "submit the job again") from None
    return tree


def _read(path: Path, origins: Origins, chain: tuple[Path, ...], opened: list[Path]) -> dict[str, Any]:
    """One file over those that it extends; `opened` gathers all files that were read for the recipe."""
    try:
        path = path.expanduser()
    except RuntimeError:
        raise RecipeError(f"{path}: there is no such user", "give the path of a recipe file") from None
    opened.append(path)
    if len(opened) > _MAX_FILES:
        raise RecipeError(
            f"{opened[0]}: extends more than {_MAX_FILES - 1} files, each counted as often as it is named",
            "let each file extend a base once",
        )
    text = _text(path)
    resolved = Path(os.path.realpath(path))
    if resolved in chain:
        raise RecipeError(f"{path}: extends itself through {' -> '.join(p.name for p in chain)}")
    loaded = _parsed(text, str(path))
    if loaded is None:
        loaded = CommentedMap()
    if not isinstance(loaded, CommentedMap):
        raise RecipeError(f"{path}: a recipe is a mapping of sections, this is a {type(loaded).__name__}")
    lines = dict(_lines(loaded))
    own = _plain(loaded)
    bases = own.pop("extends", [])
    if isinstance(bases, str):
        bases = [bases]
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise RecipeError(
            f"{path}:{lines.get('extends', 1)}: extends: {bases!r} names no recipe", "extends: base.yaml, or a list"
        )
    tree: dict[str, Any] = {}
    for base in bases:
        tree = _merge(tree, _read(path.parent / base, origins, (*chain, resolved), opened), origins)
    merged: dict[str, Any] = _merge(tree, own, origins)
    for leaf, _ in leaves(own):
        origins[leaf] = f"{path}:{lines.get(leaf, 1)}"
    return merged


def _text(path: Path) -> str:
    """The content of a recipe file.

    Raises:
        RecipeError: it is missing, is no regular file (of which reading may never end), too large, or no UTF-8.
    """
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            kind = "a directory" if stat.S_ISDIR(mode) else "not a regular file"
            raise RecipeError(f"{path}: it is {kind}", "give the path of a recipe file")
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*.yaml")], 1)
        hint = f"did you mean {path.parent / near[0]}?" if near else "give the path of a recipe file"
        raise RecipeError(f"{path}: no such file", hint) from None
    except (OSError, ValueError) as error:  # a name with a NUL is a ValueError
        raise RecipeError(f"{str(path)[:300]!r}: cannot be read ({error})") from None
    if len(content) > _MAX_BYTES:
        raise RecipeError(f"{path}: more than {_MAX_BYTES >> 20} MiB", "a recipe is a few kilobytes; is this one?")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise RecipeError(f"{path}:{line}: not UTF-8 ({error.reason})", "save it as UTF-8") from None


def _parsed(text: str, where: str) -> Any:
    """YAML as the library's own types, bounded.

    Raises:
        RecipeError: it is no YAML, nested too deeply, or larger than any recipe when its aliases are written out.
    """
    if _brackets(text) > _MAX_DEPTH:  # the parser takes seconds over thousands
        raise RecipeError(f"{where}: nested more than {_MAX_DEPTH} levels deep")
    for number, line in enumerate(text.splitlines(), 1):
        if color := _COLOR_COMMENT.match(line):
            raise RecipeError(f"{where}:{number}: {color[1]} is a comment in YAML", f'quote it: "{color[1]}"')
    try:
        loaded = YAML(typ="rt", pure=True).load(text)
        _check_tree(loaded)
    except RecipeError as error:
        raise RecipeError(f"{where}: {error.message}", error.hint) from None
    except YAMLError as error:
        raise RecipeError(f"{where}: not valid YAML\n  {str(error).strip()}", _unquoted(text, error)) from None
    except RecursionError:
        raise RecipeError(f"{where}: nested more than {_MAX_DEPTH} levels deep") from None
    except ValueError as error:  # an integer of thousands of digits, a date that does not exist
        raise RecipeError(f"{where}: {error}") from None
    except (AttributeError, KeyError, TypeError) as error:  # what the library does not expect of tags and merge keys
        raise RecipeError(
            f"{where}: not valid YAML: a tag (!!name) or merge key (<<) with a value that it does not take ({error!r})",
            "write the value without it",
        ) from None
    return loaded


def _brackets(text: str) -> int:
    """Depth of nested brackets, including those in quotes."""
    depths = itertools.accumulate((1 if sign in "[{" else -1) for sign in text if sign in "[]{}")
    return max(depths, default=0)


def _unquoted(text: str, error: YAMLError) -> str:
    """Hint for a plain value that begins with a sign of YAML's syntax; "" if there is none."""
    mark = getattr(error, "problem_mark", None)
    lines = text.splitlines()
    if mark is None or not lines:
        return ""
    near = lines[max(0, min(mark.line, len(lines) - 1) - 1) : mark.line + 1]
    for line in reversed(near):
        value = line.partition(": ")[2].strip() or line.strip().removeprefix("- ").strip()
        if inside := _IN_BRACKETS.search(line):  # the mapping or list is meant as one; this value in it is text
            value = inside[1].strip()
        if value[:1] in _QUOTED:
            return f'{value[0]} begins {_QUOTED[value[0]]} in YAML; quote it: "{value}"'
    return ""


def _check_tree(tree: Any) -> None:
    """Bound what walks over a tree cost: each alias counts as often as it is used.

    Raises:
        RecipeError: too deep, too large, or a whole number of more than 64 bits.
    """
    left, nodes = [(tree, 0)], 0
    while left:
        node, depth = left.pop()
        nodes += 1
        if nodes > _MAX_NODES:
            raise RecipeError(f"more than {_MAX_NODES:,} values", "are aliases (*name) nested in each other?")
        if depth > _MAX_DEPTH:
            raise RecipeError(f"nested more than {_MAX_DEPTH} levels deep")
        if isinstance(node, Mapping):
            left += [(part, depth + 1) for pair in node.items() for part in pair]
        elif isinstance(node, (list, tuple, set)):
            left += [(part, depth + 1) for part in node]
        elif isinstance(node, int) and not isinstance(node, bool) and node.bit_length() > _MAX_BITS:
            raise RecipeError(f"a whole number of {node.bit_length()} bits; {_MAX_BITS} are the most")
        _check_tag(node)


def _check_tag(node: Any) -> None:
    """A recipe holds plain values: what a tag (!name) would make of one would be lost without a word."""
    name = getattr(getattr(node, "tag", None), "value", None)
    if name not in (None, "tag:yaml.org,2002:str") or isinstance(node, (bytes, AbstractSet)):
        shown = str(name or ("!!binary" if isinstance(node, bytes) else "!!set")).replace("tag:yaml.org,2002:", "!!")
        raise RecipeError(f"{shown} is a tag in YAML, and a recipe holds plain values", f'quote it: "{shown} ..."')


def _lines(node: CommentedMap, prefix: str = "") -> Iterator[tuple[str, int]]:
    for key, value in node.items():
        dotted = f"{prefix}.{key}" if prefix else str(key)
        if isinstance(value, CommentedMap) and value:
            yield from _lines(value, dotted)
        else:
            place = (node.lc.data or {}).get(key)  # none of keys that a merge (<<) brings
            yield dotted, (place[0] if place else node.lc.line or 0) + 1


def _plain(node: Any) -> Any:
    """Strip the YAML library's own types, which must not reach pickles or JSON."""
    if isinstance(node, CommentedMap):
        return {str(k): _plain(v) for k, v in node.items()}
    if isinstance(node, CommentedSeq):
        return [_plain(v) for v in node]
    for kind in (bool, int, float, str):
        if isinstance(node, kind):
            return kind(node)
    return node if node is None else str(node)


def _merge(below: Any, above: Any, origins: Origins, path: str = "") -> Any:
    if not isinstance(below, dict) or not isinstance(above, dict):
        _forget(origins, path)
        return above
    if "kind" in above and above["kind"] != below.get("kind", above["kind"]):
        _forget(origins, path)
        return above
    out = dict(below)
    for key, value in above.items():
        dotted = f"{path}.{key}" if path else key
        out[key] = _merge(below[key], value, origins, dotted) if key in below else value
    return out


def _forget(origins: Origins, path: str) -> None:
    for known in [p for p in origins if p == path or p.startswith(path + ".")]:
        del origins[known]


def _parse(overrides: Sequence[str] | Mapping[str, Any]) -> dict[str, Any]:
    """Dotted paths and values; kinds come first, since they decide which other keys there are."""
    if isinstance(overrides, Mapping):
        out = {path: _unbox(value) for path, value in overrides.items()}
    else:
        out = _parse_words(overrides)
    return dict(sorted(out.items(), key=lambda item: not item[0].endswith(".kind")))


def _parse_words(overrides: Sequence[str]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for text in overrides:
        path, sign, value = text.partition("=")
        if not sign or not path:
            raise RecipeError(f"override {text!r}: expected a.b=value")
        if not all(path.split(".")):
            raise RecipeError(f"override {text[:200]!r}: {path!r} is no path of keys", "write a.b=value")
        if value.lstrip().startswith("#"):
            raise RecipeError(f"override {text[:200]!r}: # begins a comment in YAML", f"quote it: '{path}=\"{value}\"'")
        out[path] = _plain(_parsed(value, f"override {text[:200]!r}"))
    return out


def _unbox(value: Any) -> Any:
    """NumPy scalars come out of samplers; a recipe holds plain Python values."""
    return value.item() if hasattr(value, "item") and not isinstance(value, (str, bytes)) else value


def _set(tree: dict[str, Any], path: str, value: Any, cls: type[Section]) -> list[str]:
    """Set one value; returns the dotted paths of what was lost by it."""
    *parents, last = path.split(".")
    node: Any = tree
    for key in parents:
        if isinstance(node, list):
            node = node[_index(node, key, path)]
            continue
        if not isinstance(node.get(key), (dict, list)):
            node[key] = {}
        node = node[key]
    if isinstance(node, list):
        node[_index(node, last, path)] = value
    elif last == "kind":
        kept = _shared(cls, parents, node, value)
        lost = [".".join([*parents, key]) for key in node if key not in kept]
        node.clear()
        node.update({"kind": value, **kept})
        return lost
    else:
        node[last] = _merge(node.get(last), value, {}) if last in node else value
    return []


def _shared(cls: type[Section], steps: Sequence[str], node: Mapping[str, Any], kind: Any) -> dict[str, Any]:
    """What stays of `node` when it becomes another kind: what it says beyond defaults about keys that both kinds have
    from a common base. All of it, where the kind does not change."""
    kinds: list[Any] = [cls]
    usual_kind = None
    for step in steps:
        fields = [m.model_fields[step] for m in kinds if step in m.model_fields]
        usual_kind = getattr(fields[0].default, "kind", None) if fields else None
        kinds = [m for field in fields for m in _models(field.annotation)]
    before = node.get("kind", usual_kind)
    if before == kind:
        return dict(node)
    if not isinstance(before, str) or not isinstance(kind, str):
        return {}
    tagged = {_tag(m): m for m in kinds}
    old, new = tagged.get(before), tagged.get(kind)
    if old is None or new is None:
        return {}
    bases = [b for b in old.__mro__ if b in new.__mro__ and issubclass(b, Section) and b is not Section]
    names = {name for base in bases for name in base.model_fields}
    usual = {name: old.model_fields[name].get_default(call_default_factory=True) for name in names}
    return {k: v for k, v in node.items() if k in names and v != usual[k]}


def _index(node: list[Any], key: str, path: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", key) or int(key) >= len(node):
        raise RecipeError(f"override {path[:200]!r}: {key[:200]!r} is no position in a list of {len(node)}")
    return int(key)


def _describe(cls: type[Section], error: dict[str, Any]) -> str:
    """One pydantic error as `path: what; hint`, without the union tags pydantic puts into the path."""
    steps, known = _walk(cls, error["loc"])
    path = ".".join(steps)
    if error["type"] == "extra_forbidden":
        near = difflib.get_close_matches(steps[-1], known, 1, 0.5)
        return f"{path}: unknown key" + (f"; did you mean '{near[0]}'?" if near else f"; known: {', '.join(known)}")
    if error["type"] == "union_tag_invalid":
        tag, expected = error["ctx"]["tag"], error["ctx"]["expected_tags"]
        near = difflib.get_close_matches(tag, [e.strip(" '") for e in expected.split(",")], 1, 0.4)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        return f"{path}.kind: {tag!r} is none of {expected}{hint}"
    if error["type"] == "union_tag_not_found":
        return f"{path}.kind: missing; a mapping with `kind` is expected here"
    text = error["msg"].removeprefix("Value error, ")
    shown = "" if error["type"] in ("missing", "value_error") else f" (got {error['input']!r})"
    return f"{path or 'recipe'}: {text}{shown}"


def _walk(cls: Any, loc: Sequence[str | int]) -> tuple[list[str], list[str]]:
    """Follow an error's location through the model; returns the path without tags and the keys known at its end."""
    steps: list[str] = []
    known: list[str] = []
    models: list[Any] = [cls]
    for part in loc:
        fields = {name: f for m in models for name, f in getattr(m, "model_fields", {}).items()}
        tagged = [m for m in models if _tag(m) == part]
        if tagged and part not in fields:
            models = tagged
            continue
        known = sorted(fields)
        steps.append(str(part))
        if part in fields:
            models = [
                m
                for owner in models
                if part in owner.model_fields
                for m in _models(owner.model_fields[part].annotation)
            ]
        elif not isinstance(part, int):
            models = []
    return steps, known


def _tag(model: Any) -> str | None:
    field = getattr(model, "model_fields", {}).get("kind")
    tags = get_args(field.annotation) if field is not None else ()
    return tags[0] if tags else None


def _models(annotation: Any) -> list[Any]:
    """All Section classes inside an annotation: unions, lists, dicts, Annotated."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) in (Union, types.UnionType, list, tuple, dict, typing.Annotated):
        return [m for a in get_args(annotation) for m in _models(a)]
    return []
