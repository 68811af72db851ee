"""The exception for errors that the user can mend."""


class ResultsError(Exception):
    """A store, sweep or table cannot be read as requested. The message is one sentence that says what, where and what to do.

    `analysis` does not import `scalearn.errors`, so it has its own class. The command line treats both alike.
    """
