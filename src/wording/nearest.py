"""The name that a person meant by one that does not exist: a key, a choice, a file."""

import difflib
import os
import re
import shlex
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from src.wording.foreign_names import CHOICES, KEYS, by_foreign_name

CUTOFF = 0.7  # of difflib's ratio, from which on two names are alike
CLOSE = 0.9  # and are the same but for a letter
CHOICE_CUTOFF = 0.6  # there are few choices
MOST = 3  # names that are worth reading
MOST_FILES = 2000  # of a folder that is looked through

KEYS_OF_OTHERS = by_foreign_name(KEYS)
CHOICES_OF_OTHERS = by_foreign_name(CHOICES)


def nearest_keys(name: str, keys: Sequence[str]) -> list[str]:
    """Return the keys that ``name`` may mean, the likeliest first; by their last parts, too.

    Case, ``-``, ``_``, ``/`` and blanks count for nothing, and other programs' names are known.
    """
    whole = _plain_key(name)
    last = whole.rpartition(".")[2]
    by_form: dict[str, list[str]] = {}
    for key in keys:
        for form in _forms(key):
            by_form.setdefault(form, []).append(key)
    named = {_plain_key(name): targets for name, targets in KEYS_OF_OTHERS.items()}
    for form in dict.fromkeys([whole, last]):
        if form in map(_plain_key, by_form.get(form, ())):
            return _few(by_form[form])
        if found := _meant(named.get(form, ()), by_form):
            return found
        if form in by_form:
            return _few(by_form[form])
    words = _words(_snake(name.strip("+~-. ")))
    if parts := [key for key in keys if words and words <= _words(key)]:
        fewest = min(len(_words(key)) for key in parts)
        return _few(key for key in parts if len(_words(key)) == fewest)
    for form, cutoff in ((last, CLOSE), (whole, CUTOFF), (last, CUTOFF)):
        close = difflib.get_close_matches(form, [*by_form, *named], n=MOST, cutoff=cutoff)
        found = [key for each in close for key in by_form.get(each) or _meant(named[each], by_form)]
        if found:
            return _few(key for key in found if _words(key) == _words(found[0]))
    return []


def _few(keys: Iterable[str]) -> list[str]:
    """Return the first keys; those of the top alone, if there are any."""
    found = list(dict.fromkeys(keys))
    return ([key for key in found if "." not in key] or found)[:MOST]


def _meant(targets: Iterable[str], by_form: dict[str, list[str]]) -> list[str]:
    """Return the keys of the first target that exists."""
    for target in targets:
        if found := by_form.get(_plain_key(target)):
            return _few(found)
    return []


def _plain_key(name: str) -> str:
    return re.sub(r"[-_\s]", "", name.strip("+~-. ").replace("/", ".")).casefold()


def _forms(key: str) -> list[str]:
    """Return a key without its signs: whole, and what follows each of its dots."""
    parts = _plain_key(key).split(".")
    return [".".join(parts[start:]) for start in range(len(parts))]


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name)


def _words(key: str) -> set[str]:
    return set(re.split(r"[-_\s]+", key.rpartition(".")[2].casefold())) - {""}


def nearest_choice(value: object, choices: Sequence[str]) -> str | None:
    """Return the choice that ``value`` may mean; None: none is near."""
    text = str(value).strip()
    plain = _plain_choice(text)
    by_form = {_plain_choice(choice): choice for choice in choices}
    if plain in by_form:
        return by_form[plain]
    for meant in CHOICES_OF_OTHERS.get(text.casefold(), ()):
        if meant in choices:
            return meant
    if len(plain) > 1:
        starts = [c for form, c in by_form.items() if form.startswith(plain)]
        ends = [c for form, c in by_form.items() if form.endswith(plain)]
        if len(starts or ends) == 1:
            return (starts or ends)[0]
    for name, targets in CHOICES_OF_OTHERS.items():
        if found := [choice for choice in targets if choice in choices]:
            by_form.setdefault(_plain_choice(name), found[0])
    close = difflib.get_close_matches(plain, by_form, n=1, cutoff=CHOICE_CUTOFF)
    return by_form[close[0]] if close else None


def _plain_choice(text: str) -> str:
    return re.sub(r"[-_\s]", "", text.rpartition("/")[2]).casefold()


def nearest_path(path: str | Path) -> str | None:
    """Return the path beside a missing one whose name is nearest; None: none is near.

    A folder on the way to it may be the one that is misspelt.
    """
    whole = Path(path).expanduser()
    for missing in [whole, *whole.parents]:
        if missing.parent.is_dir():
            name = _nearest_name(missing.name, missing.parent)
            if name is None:
                return None
            found = missing.parent / name / whole.relative_to(missing)
            return str(found) if os.path.lexists(found) else None
    return None


def _nearest_name(name: str, folder: Path) -> str | None:
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry, _ in zip(entries, range(MOST_FILES), strict=False)]
    except OSError:
        return None
    by_form = {each.casefold(): each for each in names if not each.startswith(".")}
    if name.casefold() in by_form:
        return by_form[name.casefold()]
    same_stem = [each for form, each in by_form.items() if Path(form).stem == name.casefold()]
    if len(same_stem) == 1:  # its suffix was left out
        return same_stem[0]
    close = difflib.get_close_matches(name.casefold(), by_form, n=1, cutoff=CUTOFF)
    return by_form[close[0]] if close else None


def choice_question(value: object, choices: Sequence[str]) -> str:
    """Return ``: did you mean a?`` for the end of a message; empty: no choice is near."""
    near = nearest_choice(value, choices)
    return f": did you mean {near}?" if near else ""


def path_question(path: str | Path) -> str:
    """Return ``: did you mean a/b?`` for the end of a message; empty: no path is near."""
    near = nearest_path(path)
    return f": did you mean {shlex.quote(near)}?" if near else ""


def question(names: Iterable[str], write: Callable[[str], str] = str) -> str:
    """Return ``did you mean a or b?``; empty: there is none to name."""
    texts = [write(name) for name in names]
    return f"did you mean {' or '.join(texts)}?" if texts else ""
