"""The exception for errors that the user can mend."""

from collections.abc import Sequence


class UserError(Exception):
    """Wrong input or a missing piece. The message is one sentence that says what, where and what to do.

    The command line prints the sentence on stderr and exits with 2, without a traceback.
    """


class UserErrors(UserError):
    """Several such errors of one file. The message has one sentence per line."""

    def __init__(self, sentences: Sequence[str]) -> None:
        """Keep the sentences.

        Args:
            sentences: At least one.
        """
        super().__init__("\n".join(sentences))
        self.sentences = tuple(sentences)
