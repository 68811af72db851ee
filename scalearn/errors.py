"""The one exception that means the user can mend it."""


class UserError(Exception):
    """Wrong input or a missing piece: one sentence that says what, where and what to do.

    The command line prints the sentence on stderr and exits with 2, without a traceback.
    """
