"""Upload files to the Hugging Face hub, and fetch states from it."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, TypeVar

from coinage.config import HubConfig
from coinage.errors import CoinageError, reason_of
from coinage.models.hub_files import reach_hub
from coinage.runs.states import REFERENCE, SUMMARY, TENSORS

if TYPE_CHECKING:
    from huggingface_hub import HfApi

log = logging.getLogger("coinage")
T = TypeVar("T")
PATIENCE = 60.0  # seconds to wait for the hub
THREAD = "upload"  # the name of the threads that send
CHECK_PLACE = "check name, revision and login"
REFUSED = (400, 401, 403, 404)  # HTTP status codes that will be the same later


class Uploader:
    """Sends saved files, in order, from a thread that lives while there is something to send.

    What cannot be sent is reported, and sent again with the next files. The process waits for a hub
    that does not answer no longer than `PATIENCE`, and can always end.
    """

    def __init__(self, hub: HubConfig, api: HfApi) -> None:
        self._hub, self._api = hub, api
        self._unsent: dict[str, bytes] = {}  # by path in the repository; the thread's alone
        self._jobs = deque[Callable[[], None]]()
        self._works = False  # a thread takes jobs
        self._guard = threading.Lock()  # of the two above
        self._last: Future[None] | None = None  # what was sent last

    def _work(self) -> None:
        """Do the jobs until none is left."""
        while True:
            with self._guard:
                if not self._jobs:
                    self._works = False
                    return
                job = self._jobs.popleft()
            job()

    def _begin(self, act: Callable[[], T]) -> Future[T]:
        """Have the thread run a function after those before it."""
        answer: Future[T] = Future()

        def run() -> None:
            try:
                answer.set_result(act())
            except Exception as error:  # noqa: BLE001 - raised where it is waited for
                answer.set_exception(error)

        with self._guard:
            self._jobs.append(run)
            if not self._works:
                self._works = True
                threading.Thread(target=self._work, name=THREAD, daemon=True).start()
        return answer

    def call(self, act: Callable[[], T]) -> T:
        """Run a function in the thread; return or raise what it does.

        Raises:
            TimeoutError: it takes too long.
        """
        return self._begin(act).result(PATIENCE)

    def send(self, paths: Sequence[Path], *, last: bool = False) -> None:
        """Send embeddings, and states where they are wanted.

        They are read at once, so that they may be changed or deleted afterwards. This waits for the
        last files, and for others unless `--async_upload` was given.
        """
        files: dict[str, bytes] = {}
        for path in paths:
            if not path.is_dir():
                self._read(path, path.parent, files)
            elif self._hub.states:
                self._read(path / SUMMARY, path.parent, files)
                self._read(path / TENSORS, path.parent, files)
        stuck = self._last is not None and not self._last.done()
        self._last = self._begin(lambda: self._commit(files, last))
        if (last or not self._hub.background) and not stuck and not self._done():
            text = (
                "the hub is slow: files are sent in the background; they are safe in --output_dir"
            )
            log.warning(text)

    def _read(self, file: Path, root: Path, files: dict[str, bytes]) -> None:
        """Add a file's bytes to `files`, by its path in the repository; warn if it cannot be read."""
        place = PurePosixPath(self._hub.folder) / file.relative_to(root).as_posix()
        try:
            files[str(place)] = file.read_bytes()
        except OSError as error:
            log.warning("not uploaded to %s: %s: %s", self._hub.repo_id, file, error.strerror)

    def _done(self) -> bool:
        """Wait a while; return whether everything has been sent, or tried."""
        return self._last is None or bool(wait([self._last], PATIENCE).done)

    def _commit(self, files: dict[str, bytes], last: bool) -> None:
        from huggingface_hub import CommitOperationAdd

        self._unsent |= files
        repo = str(self._hub.repo_id)
        parts = set()
        for path in self._unsent:
            parts.add(PurePosixPath(path).relative_to(self._hub.folder).parts[0])
        names = ", ".join(sorted(parts))
        try:
            reach_hub()
            additions = [CommitOperationAdd(path, data) for path, data in self._unsent.items()]
            self._api.create_commit(
                repo, additions, commit_message=f"Add {names}", repo_type=self._hub.repo_type
            )
        except Exception as error:  # noqa: BLE001 - whatever the network raises, the files are on the disk
            hint = "the next save sends it again"
            if last:
                hint = f"send it by hand: hf upload {repo} FILE"
            text = "not uploaded to %s: %s: %s\nhint: it is safe in --output_dir; %s"
            log.warning(text, repo, names, reason_of(error), hint)
            return
        self._unsent = {}
        log.info("uploaded to %s: %s", repo, names)

    def close(self) -> None:
        """Wait a while for what is under way."""
        if not self._done():
            text = (
                "not everything was uploaded to %s: the hub does not answer; "
                "the files are in --output_dir"
            )
            log.warning(text, self._hub.repo_id)


def open_uploader(hub: HubConfig) -> Uploader | None:
    """Find the repository, or make it; return None if nothing is to be uploaded.

    A hub that is out of reach is a warning: it may be back when there is something to send.

    Raises:
        CoinageError: the hub refuses.
    """
    if hub.repo_id is None:
        return None
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    uploader = Uploader(hub, api := HfApi(token=hub.token))
    hint = "log in with `hf auth login`, or give --huggingface_token with the right to write there"
    what = f"--huggingface_repo_id {hub.repo_id}: the hub refuses"
    try:
        uploader.call(lambda: _find_or_make(hub, api))
    except LocalTokenNotFoundError as error:
        raise CoinageError(f"{what}: you are not logged in", hint=hint) from error
    except HfHubHTTPError as error:
        if error.response is not None and error.response.status_code in REFUSED:
            raise CoinageError(f"{what}: {reason_of(error)}", hint=hint) from error
        log.warning(
            "the hub answered with an error; files will be sent later: %s", reason_of(error)
        )
    except Exception as error:  # noqa: BLE001 - whatever the network raises means the same
        log.warning(
            "the hub cannot be reached; files will be sent when it is back: %s", reason_of(error)
        )
    return uploader


def _find_or_make(hub: HubConfig, api: HfApi) -> None:
    repo = str(hub.repo_id)
    reach_hub()
    if not api.repo_exists(repo, repo_type=hub.repo_type):
        space = "static" if hub.repo_type == "space" else None
        api.create_repo(
            repo, repo_type=hub.repo_type, private=bool(hub.private), exist_ok=True, space_sdk=space
        )
        log.info("created the %s repository %s", "private" if hub.private else "public", repo)
    elif hub.private and api.repo_info(repo, repo_type=hub.repo_type).private is False:
        log.warning("the repository %s already exists and is public", repo)


def fetch_state(place: str, token: str | None) -> Path:
    """Download a state from the hub.

    Args:
        place: owner/repo/folder[:revision[:type]], as in sd-scripts; not a pattern.
        token: None takes the stored login.

    Returns:
        The local folder.

    Raises:
        CoinageError: it is not there, or out of reach.
    """
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    repo, folder, revision, kind = _parts_of(place)
    try:
        reach_hub()
        for name in (TENSORS, SUMMARY):
            file = hf_hub_download(
                repo, f"{folder}/{name}", repo_type=kind, revision=revision, token=token
            )
        return Path(file).parent
    except LocalEntryNotFoundError as error:  # a subclass of the next: the network is gone
        raise _not_fetched(place, error) from error
    except EntryNotFoundError:
        files = _files_in(HfApi(token=token), repo, kind, revision)
        what, hint = f"--resume: no state in {folder} of {repo}", _hint_from(files, folder)
        raise CoinageError(what, hint=hint) from None
    except Exception as error:
        raise _not_fetched(place, error) from error


def _parts_of(place: str) -> tuple[str, str, str | None, str]:
    """Return repository, folder, revision and type of owner/repo/folder[:revision[:type]].

    Raises:
        CoinageError: a part is missing.
    """
    path, _, rest = place.partition(":")
    revision, _, kind = rest.partition(":")
    owner, _, inner = path.partition("/")
    name, _, folder = inner.partition("/")
    folder = folder.strip("/")
    if not (owner and name and folder):
        what = f"--resume {place} is not a state on the hub"
        raise CoinageError(
            what, hint="write owner/repo/folder, with :revision and :type if need be"
        )
    return f"{owner}/{name}", folder, revision or None, kind or "model"


def _not_fetched(place: str, error: Exception) -> CoinageError:
    what = f"--resume: {place} cannot be fetched: {reason_of(error)}"
    return CoinageError(what, hint=CHECK_PLACE)


def _hint_from(files: Sequence[str], folder: str) -> str:
    """Return a hint on a folder without a state, given the files of the repository."""
    if any(f"{folder}/{file}" in files for file in REFERENCE):
        return "this one is another trainer's; continue from its embedding instead: --weights FILE"
    states = []
    for file in map(PurePosixPath, files):
        if file.name == SUMMARY:
            states.append(str(file.parent))
    if states:
        return f"the states there are: {', '.join(states[:5])}"
    return CHECK_PLACE


def _files_in(api: HfApi, repo: str, kind: str, revision: str | None) -> list[str]:
    """Return all files of a repository, as far as they can be listed."""
    try:
        return list(api.list_repo_files(repo, repo_type=kind, revision=revision))
    except Exception as error:  # noqa: BLE001 - only a hint hangs on it
        log.debug("hub: %s", error)
        return []
