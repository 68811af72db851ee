"""The exception for errors that the user can mend."""


class UserError(Exception):
    """Wrong input or a missing piece. The message is one sentence that says what, where and what to do.

    The command line prints the sentence on stderr and exits with 2, without a traceback.
    """
