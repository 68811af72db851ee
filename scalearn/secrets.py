"""Text that others may see, without passwords, tokens and keys: what is printed, logged, or stored beside results."""

import os
import re

MASK = "***"

# Bounds everywhere: text may be megabytes without a space, and somebody's who means harm.
_URL = re.compile(
    r"(?P<begin>\b[A-Za-z][A-Za-z0-9+.-]{0,30}://[^\s:/?#@'\"<>\[]{0,256}:)"
    r"(?!\d{1,5}(?:[/?#]|$))"  # a port, and some later word with an @
    r"[^\s'\"<>]{0,256}"  # up to the last @: people forget to quote those in passwords
    r"(?=@)"
)
_TOKEN_IN_URL = re.compile(r"(?P<begin>\bhttps?://)[^\s:/?#@'\"<>\[]{1,256}(?=@)")
_WORD = "(?:password|passwd|pwd|passphrase|secret|token|credentials?|signature|(?:api|access|secret|account)[_-]?key)"
_QUERY = re.compile(rf"(?i)(?P<begin>[?&;][\w.%-]{{0,64}}?{_WORD}=)[^\s&;#'\"<>]+")
_VARIABLE = re.compile(rf"(?i)(?P<begin>\b\w{{0,64}}?{_WORD}=['\"]?)[^\s&;,'\"(){{}}\[\]]+")
_PAIR = re.compile(rf"(?i)(?P<begin>(['\"])[\w.-]{{0,64}}?{_WORD}\2\s*:\s*(['\"]))(?:(?!\3)[^\\\n]|\\.)+(?=\3)")
_HEADER = re.compile(r"(?i)(?P<begin>\bauthorization['\"]?\s*[:=]\s*['\"]?(?:basic|bearer)\s+)[^\s'\"]+")
_PATTERNS = (_URL, _TOKEN_IN_URL, _QUERY, _VARIABLE, _PAIR, _HEADER)

_SECRET_NAME = re.compile(r"(?:PASSWORD|PASSWD|PASSPHRASE|SECRET|TOKEN|CREDENTIALS?|(?:API|ACCESS|ACCOUNT|SECRET)_?KEY)$", re.IGNORECASE)
_SHORTEST = 6
"""Characters of the shortest value of a variable that is looked for: a shorter one stands in many words."""


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
    for pattern in _PATTERNS:
        text = pattern.sub(rf"\g<begin>{MASK}", text)
    return text


def _secret_values() -> list[str]:
    """Return the values of the environment's secrets, the longest first: one may contain another."""
    values = {value for name, value in os.environ.items() if _SECRET_NAME.search(name) and len(value) >= _SHORTEST}
    return sorted(values, key=len, reverse=True)
