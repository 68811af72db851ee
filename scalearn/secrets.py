"""Remove passwords, tokens and keys from text that is printed, logged or stored, above all from messages of errors."""

import os
import re

MASK = "***"

# All patterns are bounded, since a text may have megabytes without a space, or be written to do harm.
_LOGIN = re.compile(
    r"\b[A-Za-z][A-Za-z0-9+.-]{0,30}://[^\s:/?#'\"<>\[]{0,256}:"  # a user name may have an @, as in Azure: me@server
    r"(?!\d{1,5}(?:[/?#'\"<>]|[^\w@]{0,3}(?:\s|$)))"  # not a port that a later word with an @ follows
)
_END_OF_URL = re.compile(r"[\s'\"<>]")
_TOKEN_IN_URL = re.compile(r"(?P<begin>\bhttps?://)[^\s:/?#@'\"<>\[]{1,256}(?=@)")
_WORD = "(?:password|passwd|pwd|passphrase|secret|token|credentials?|signature|(?:api|access|secret|account)[_-]?key)"
_QUERY = re.compile(rf"(?i)(?P<begin>[?&;][\w.%-]{{0,64}}?{_WORD}=)[^\s&;#'\"<>]+")
_VARIABLE = re.compile(
    rf"(?i)(?P<begin>\b\w{{0,64}}?{_WORD}(?:=|%3D)['\"]?)"
    # In braces, and with quoted characters, as ODBC strings have them in a URL.
    r"(?:\{[^}\s]{1,256}\}|%7B[^}\s]{1,256}?%7D|(?:(?!%3B|%26)[^\s&;,'\"(){}\[\]])+)"
)
_PAIR = re.compile(rf"(?i)(?P<begin>(['\"])[\w.-]{{0,64}}?{_WORD}\2\s*:\s*(['\"]))(?:(?!\3)[^\\\n]|\\.)+(?=\3)")
_HEADER = re.compile(r"(?i)(?P<begin>\bauthorization['\"]?\s*[:=]\s*['\"]?(?:basic|bearer)\s+)[^\s'\"]+")
_WEBHOOK = re.compile(r"(?i)(?P<begin>webhook['\"]?\s{0,9}[:=]\s{0,9}['\"]?https?://[^\s/?#'\"<>,{}\[\]]{1,256}[/?#])[^\s'\"<>,{}\[\]]+")
"""Whoever knows the path of a webhook can post to it."""
_PATTERNS = (_TOKEN_IN_URL, _QUERY, _VARIABLE, _PAIR, _HEADER, _WEBHOOK)

_SECRET_NAME = re.compile(
    r"(?:PASSWORD|PASSWD|PASSPHRASE|SECRET|TOKEN|CREDENTIALS?|(?:API|ACCESS|ACCOUNT|SECRET)_?KEY|WEBHOOK)$", re.IGNORECASE
)
_SHORTEST = 6
"""Characters of the shortest variable's value that is looked for, since a shorter value occurs in many words."""

_LONGEST_CLAUSE = 300
"""Characters of a foreign message in a sentence of ours, since a file or a server may say anything."""


def without_secrets(text: str) -> str:
    """Return a text with a mask in place of every secret.

    A secret is found by its place: the password of a URL (`postgresql://user:secret@host`), a parameter, variable or JSON field with a
    telling name (`?password=`, `HF_TOKEN=`, `"aws_secret_access_key": `), a header `Authorization`, the path of a URL called `webhook`.
    The value of an environment variable with a telling name (`MLFLOW_TRACKING_PASSWORD`) is found anywhere in the text, if it has at least
    six characters.

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
    """Mask the text between a URL's user and the last @ of its word, since people forget to quote an @ in passwords.

    A password may have any length, since some clouds use access tokens as passwords. One with a space or a quotation mark, which end a URL
    in a sentence, is masked up to the next @ of its line. No place of the text is read more than twice.
    """
    kept, start, end, at = list[str](), 0, -1, -1
    for login in _LOGIN.finditer(text):
        begin = login.end()
        if login.start() < start:  # inside the last password
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
    """Return the first line of an error's message that is not empty, without secrets. If there is none, return the error's type."""
    unnamed = type(error).__name__ if isinstance(error, BaseException) else "unknown error"
    lines = without_secrets(str(error)).splitlines()  # from the whole text, since a key may have several lines
    return next((line.strip() for line in lines if line.strip()), unnamed)


def clause(error: BaseException) -> str:
    r"""Return the first line of an error's message for the middle of a sentence: without its full stop, and cut if it is long.

    >>> clause(ValueError("It is torn.\nSee the manual."))
    'It is torn'
    """
    return first_line(error)[:_LONGEST_CLAUSE].rstrip(".")


def _secret_values() -> list[str]:
    """Return the values of the environment's secrets, longest first, since one value may contain another."""
    values = {value for name, value in os.environ.items() if _SECRET_NAME.search(name) and len(value) >= _SHORTEST}
    return sorted(values, key=len, reverse=True)
