"""An exported adapter on the hub."""

from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError

from scalearn.backbone.origin import hub_id
from scalearn.errors import UserError
from scalearn.secrets import clause


def push(directory: Path, repository: str, *, collection: str, private: bool = False) -> str:
    """Upload a directory as a model repository, which is created where there is none. Files that are there in this form already stay.

    Args:
        directory: What `export_adapter` wrote.
        repository: `OWNER/NAME`.
        collection: Title of the owner's collection that holds it, too, such as the sweep's name. It is created where there is none.
        private: Whether only its owner may read it, and a new collection.

    Returns:
        Address of the repository.

    Raises:
        UserError: The name is none, the hub refuses, or it could not be reached to the end.
    """
    if hub_id(repository) is None or "@" in repository:
        raise UserError(f"'{repository}' is no name of a repository on the hub: give OWNER/NAME.")
    hub = HfApi()
    try:
        hub.create_repo(repository, private=private, exist_ok=True)
        if private and not hub.model_info(repository).private:
            raise UserError(f"{repository} is on the hub already and public: make it private there, or give another name.")
        hub.upload_folder(repo_id=repository, folder_path=directory, commit_message="Adapter exported by scalearn")
        slug = hub.create_collection(collection, namespace=repository.partition("/")[0], private=private, exists_ok=True).slug
        hub.add_collection_item(slug, repository, "model", exists_ok=True)
    except HfHubHTTPError as error:
        if error.response is not None and error.response.status_code in (401, 403):
            raise UserError(
                f"The hub does not let you write to {repository} ({clause(error)}): log in with `hf auth login` and a token that may "
                "write, or name a repository of yours."
            ) from error
        raise UserError(f"The hub refuses {repository} ({clause(error)}).") from error
    except OSError as error:
        raise UserError(
            f"The hub at {hub.endpoint} could not be reached to the end ({clause(error)}): {repository} is as it was before the last "
            "commit; give the command again."
        ) from error
    return f"{hub.endpoint}/{repository}"
