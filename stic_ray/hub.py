"""A trained model on a model hub: Hugging Face's, or one that answers as it does at HF_ENDPOINT. Only if asked for."""

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError

from stic_ray import storage
from stic_ray.config import Hub

# The bases of its error are OSError and whatever its HTTP client, which changes with its version, raises.
_BASES = [base for base in HfHubHTTPError.__bases__ if issubclass(base, Exception)]
_FAILURES: tuple[type[Exception], ...] = (*_BASES, OSError, ValueError)


def check(hub: Hub) -> None:
    """Whether the repository may be written by whoever is logged in, before anything is trained; it is made.

    Raises:
        ValueError: it may not, or the hub does not answer.
    """
    try:
        HfApi().create_repo(hub.repo, private=hub.private, exist_ok=True)
    except _FAILURES as error:
        raise ValueError(
            _failed(
                hub, "set HF_TOKEN, or `hf auth login`, and look at the network (HF_HUB_OFFLINE); or hub=null", error
            )
        ) from None


def push(hub: Hub, folders: dict[str, str]) -> str:
    """Put the files of folders (URIs) into `hub.repo`, each under its name there ("" for the top); the commit's URL.

    Raises:
        ValueError: the hub refuses it.
    """
    api, url = HfApi(), ""
    try:
        for name, uri in folders.items():
            told = f"{name or 'model'} trained by stic_ray"
            path = storage.local_copy(uri)
            url = api.upload_folder(repo_id=hub.repo, folder_path=path, path_in_repo=name, commit_message=told)
    except _FAILURES as error:
        remedy = "the run is finished, and the same command pushes again without making anything anew"
        raise ValueError(_failed(hub, remedy, error)) from None
    return str(url)


def _failed(hub: Hub, remedy: str, error: Exception) -> str:
    told = (str(error).strip() or type(error).__name__).splitlines()[0]
    return f"hub.repo {hub.repo}: {told}: {remedy}"
