"""Text that others may see, errors' messages above all, without passwords, tokens and keys: what is printed, logged, or stored."""

import os
import re

MASK = "***"

# Bounds everywhere: text may be megabytes without a space, and somebody's who means harm.
_LOGIN = re.compile(
    r"\b[A-Za-z][A-Za-z0-9+.-]{0,30}://[^\s:/?#'\"<>\[]{0,256}:"  # a user may have an @, as Azure's have: me@server
    r"(?!\d{1,5}(?:[/?#'\"<>]|[^\w@]{0,3}(?:\s|$)))"  # a port, and some later word with an @
)
_END_OF_URL = re.compile(r"[\s'\"<>]")
_TOKEN_IN_URL = re.compile(r"(?P<begin>\bhttps?://)[^\s:/?#@'\"<>\[]{1,256}(?=@)")
_WORD = "(?:password|passwd|pwd|passphrase|secret|token|credentials?|signature|(?:api|access|secret|account)[_-]?key)"
_QUERY = re.compile(rf"(?i)(?P<begin>[?&;][\w.%-]{{0,64}}?{_WORD}=)[^\s&;#'\"<>]+")
_VARIABLE = re.compile(
    rf"(?i)(?P<begin>\b\w{{0,64}}?{_WORD}(?:=|%3D)['\"]?)"
    # In braces, and with its signs quoted, as ODBC's strings have it within a URL.
    r"(?:\{[^}\s]{1,256}\}|%7B[^}\s]{1,256}?%7D|(?:(?!%3B|%26)[^\s&;,'\"(){}\[\]])+)"
)
_PAIR = re.compile(rf"(?i)(?P<begin>(['\"])[\w.-]{{0,64}}?{_WORD}\2\s*:\s*(['\"]))(?:(?!\3)[^\\\n]|\\.)+(?=\3)")
_HEADER = re.compile(r"(?i)(?P<begin>\bauthorization['\"]?\s*[:=]\s*['\"]?(?:basic|bearer)\s+)[^\s'\"]+")
_PATTERNS = (_TOKEN_IN_URL, _QUERY, _VARIABLE, _PAIR, _HEADER)

_SECRET_NAME = re.compile(r"(?:PASSWORD|PASSWD|PASSPHRASE|SECRET|TOKEN|CREDENTIALS?|(?:API|ACCESS|ACCOUNT|SECRET)_?KEY)$", re.IGNORECASE)
_SHORTEST = 6
"""Characters of the shortest value of a variable that is looked for: a shorter one stands in many words."""

_LONGEST_CLAUSE = 300
"""Characters of another's message within a sentence of ours: a file or a server may say anything."""


def without_secrets(text: str) -> str:
    """Return a text with a mask in the place of every secret in it.

    A secret is what its place says is one: the password of a URL (`postgresql://user:secret@host`), a parameter, variable or JSON field
    named like one (`?password=`, `HF_TOKEN=`, `"aws_secret_access_key": `), a header `Authorization`. So is, wherever it stands, the value
    of an environment variable that is named like one (`MLFLOW_TRACKING_PASSWORD`), if it has at least six characters.

    >>> without_secrets("postgresql://mlflow:hunter2@db:5432/runs?sslpassword=x")
    'postgresql://mlflow:***@db:5432/runs?sslpassword=***'
    """
    for value in _secret_values():
        text = text.replace(value, MASK)
    text = _without_passwords_of_urls(text)
    for pattern in _PATTERNS:
        text = pattern.sub(rf"\g<begin>{MASK}", text)
    return text


def _without_passwords_of_urls(text: str) -> str:
    """Mask what stands between a URL's user and the last @ of its word: people forget to quote those in passwords.

    A password may be of any length, as access tokens are that clouds take for one. One with a space or a quotation mark, which end a URL
    in a sentence, goes up to the next @ of its line. No place of the text is looked at more than twice.
    """
    kept, start, end, at = list[str](), 0, -1, -1
    for login in _LOGIN.finditer(text):
        begin = login.end()
        if login.start() < start:  # within the last password
            continue
        if end < begin:
            found = _END_OF_URL.search(text, begin)
            end = len(text) if found is None else found.start()
            at = text.rfind("@", begin, end)
        last = at
        if last < begin:
            last = text.find("@", begin)
            if last < 0:
                break
            if "\n" in text[begin:last]:
                continue
        kept += text[start:begin], MASK
        start = last
    return "".join((*kept, text[start:]))


def first_line(error: BaseException | str) -> str:
    """Return the first line of an error's message that says something, without secrets; where none does, the name of the error's type."""
    unnamed = type(error).__name__ if isinstance(error, BaseException) else "unknown error"
    lines = without_secrets(str(error)).splitlines()  # of the whole text: a key may have several lines
    return next((line.strip() for line in lines if line.strip()), unnamed)


def clause(error: BaseException) -> str:
    r"""Return the first line of an error's message for the middle of a sentence: without its full stop, and not endless.

    >>> clause(ValueError("It is torn.\nSee the manual."))
    'It is torn'
    """
    return first_line(error)[:_LONGEST_CLAUSE].rstrip(".")


def _secret_values() -> list[str]:
    """Return the values of the environment's secrets, the longest first: one may contain another."""
    values = {value for name, value in os.environ.items() if _SECRET_NAME.search(name) and len(value) >= _SHORTEST}
    return sorted(values, key=len, reverse=True)
