"""Uploads to the Hugging Face hub, and states fetched from it. Nothing on the disk depends on either."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from coinage.config import HubConfig
from coinage.errors import CoinageError
from coinage.model_files import reach_hub
from coinage.state_files import REFERENCE, SUMMARY, TENSORS

if TYPE_CHECKING:
    from huggingface_hub import HfApi

log = logging.getLogger("coinage")
REFUSED = (400, 401, 403, 404)  # answers that will be the same later


class Uploader:
    """Sends saved files, in order. What cannot be sent is told and sent again with the next ones."""

    def __init__(self, hub: HubConfig, api: HfApi) -> None:
        self._hub, self._api = hub, api
        self._worker = ThreadPoolExecutor(1)
        self._unsent: dict[str, bytes] = {}  # by path in the repository; the worker's alone

    def send(self, paths: Sequence[Path], *, last: bool = False) -> None:
        """Send files, and folders of files where states are wanted; in the background where that is asked for and they are not the last.

        They are read at once, so that they may be changed or deleted then.
        """
        wanted = [path for path in paths if path.is_file() or self._hub.states]
        files = {}
        for path in wanted:
            for file in [path] if path.is_file() else sorted(path.iterdir()):
                files[str(PurePosixPath(self._hub.folder) / file.relative_to(path.parent).as_posix())] = file.read_bytes()
        sent = self._worker.submit(self._commit, files, last)
        if last or not self._hub.background:
            sent.result()

    def _commit(self, files: dict[str, bytes], last: bool) -> None:
        from huggingface_hub import CommitOperationAdd

        self._unsent |= files
        repo = str(self._hub.repo_id)
        names = ", ".join(sorted({PurePosixPath(path).relative_to(self._hub.folder).parts[0] for path in self._unsent}))
        try:
            reach_hub()
            additions = [CommitOperationAdd(path, data) for path, data in self._unsent.items()]
            self._api.create_commit(repo, additions, commit_message=f"Add {names}", repo_type=self._hub.repo_type)
        except Exception as error:  # noqa: BLE001 - whatever the network raises, the files are on the disk
            hint = f"send it by hand: hf upload {repo} FILE" if last else "the next save sends it again"
            log.warning("not uploaded to %s: %s: %s\nhint: it is safe in --output_dir; %s", repo, names, reason(error), hint)
            return
        self._unsent = {}
        log.info("uploaded to %s: %s", repo, names)

    def close(self) -> None:
        """Wait for what is under way."""
        self._worker.shutdown()


def reason(error: Exception) -> str:
    """The first line of what a library says went wrong."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def open_uploader(hub: HubConfig) -> Uploader | None:
    """Find the repository, or make it; None where nothing is to be uploaded.

    A hub that is out of reach is told, since it may be back when there is something to send.

    Raises:
        CoinageError: the hub refuses.
    """
    if hub.repo_id is None:
        return None
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    api = HfApi(token=hub.token)
    hint = "log in with `hf auth login`, or give --huggingface_token with the right to write there"
    what = f"--huggingface_repo_id {hub.repo_id}: the hub refuses"
    try:
        reach_hub()
        if not api.repo_exists(hub.repo_id, repo_type=hub.repo_type):
            space = "static" if hub.repo_type == "space" else None
            api.create_repo(hub.repo_id, repo_type=hub.repo_type, private=hub.private, exist_ok=True, space_sdk=space)
            log.info("made the %s repository %s", "private" if hub.private else "public", hub.repo_id)
    except LocalTokenNotFoundError as error:
        raise CoinageError(f"{what}: there is no login", hint=hint) from error
    except HfHubHTTPError as error:
        if error.response is not None and error.response.status_code in REFUSED:
            raise CoinageError(f"{what}: {reason(error)}", hint=hint) from error
        log.warning("the hub does not answer well now; files are sent later: %s", reason(error))
    except Exception as error:  # noqa: BLE001 - whatever the network raises means the same
        log.warning("the hub is out of reach; files are sent once it is back: %s", reason(error))
    return Uploader(hub, api)


def fetch_state(place: str, token: str | None) -> Path:
    """Bring a state here from the hub.

    Args:
        place: owner/repo/folder[:revision[:type]], as the reference; the folder is meant exactly.
        token: None takes the stored login.

    Returns:
        The local folder.

    Raises:
        CoinageError: it is not there, or out of reach.
    """
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    path, _, rest = place.partition(":")
    revision, _, kind = rest.partition(":")
    owner, _, inner = path.partition("/")
    name, _, folder = inner.partition("/")
    folder = folder.strip("/")
    if not (owner and name and folder):
        raise CoinageError(f"--resume {place} is no state on the hub", hint="write owner/repo/folder, with :revision and :type if need be")
    repo, at = f"{owner}/{name}", revision or None
    hint = "check name, revision and login"
    try:
        for file in (TENSORS, SUMMARY):
            found = hf_hub_download(repo, f"{folder}/{file}", repo_type=kind or "model", revision=at, token=token)
    except EntryNotFoundError:
        files = HfApi(token=token).list_repo_files(repo, repo_type=kind or "model", revision=at)
        states = [str(PurePosixPath(file).parent) for file in files if PurePosixPath(file).name == SUMMARY]
        if any(f"{folder}/{file}" in files for file in REFERENCE):
            hint = "this one is another trainer's; go on from its embedding instead: --weights FILE"
        elif states:
            hint = f"the states there are: {', '.join(states[:5])}"
        raise CoinageError(f"--resume: no state in {folder} of {repo}", hint=hint) from None
    except Exception as error:
        raise CoinageError(f"--resume: {place} cannot be fetched: {reason(error)}", hint=hint) from error
    return Path(found).parent
