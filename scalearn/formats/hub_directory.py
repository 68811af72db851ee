"""A directory that lies on the hub: named by a hub id `owner/name[@revision]`, and downloaded as it is."""

from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from scalearn.backbone.origin import hub_id
from scalearn.errors import UserError
from scalearn.secrets import clause


def download(identifier: str, what: str, files: Sequence[str]) -> Path:
    """Return the local copy of a repository's files.

    Args:
        identifier: The hub id.
        what: What is looked for there, to begin a message: `Source adapter 'mnli'`.
        files: Names or patterns of the files.

    Raises:
        UserError: It is no hub id, or the hub does not give the files.
    """
    found = hub_id(identifier)
    if found is None:
        raise UserError(f"{what}: {identifier} is neither a directory nor a hub id: give a directory that save_adapter wrote.")
    try:
        return Path(snapshot_download(found.repository, revision=found.revision, allow_patterns=list(files)))
    except (HFValidationError, LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise UserError(f"{what}: {identifier} is neither a directory nor a reachable hub id ({clause(error)}).") from error
