"""The one exception that means the user can mend it."""


class ResultsError(Exception):
    """A store, sweep or table that cannot be read as asked: one sentence that says what, where and what to do.

    `analysis` does not import `scalearn`, so it has a class of its own; the command line treats it like `scalearn.errors.UserError`.
    """
