"""Who is let in: the one-time token of the printed address, the password, the cookie. Imports no torch."""

from __future__ import annotations

import hashlib
import os
import secrets
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path

from coinage.errors import CoinageError
from coinage.system.text_files import read_text

MOST_WRONG = 5  # passwords within `PATIENCE`
PATIENCE = 60.0  # seconds
SECRET_LENGTH = 64  # hex digits


class Entrance:
    """Decides who is let in.

    Attributes:
        password: that opens the page from elsewhere; "" if there is none.
        cookie: name of the cookie; each workspace has its own, since cookies ignore ports.
        secret: the cookie's value.
    """

    def __init__(
        self,
        secret: str,
        token: str,
        password: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.secret = secret
        self.password = password
        self.cookie = f"coinage_{hashlib.sha256(secret.encode()).hexdigest()[:8]}"
        self._token = token
        self._clock = clock
        self._wrong: deque[float] = deque(maxlen=MOST_WRONG)

    def takes_token(self, token: str) -> bool:
        """Return whether this is the token of the printed address; it opens once."""
        right = bool(self._token) and _same(token, self._token)
        if right:
            self._token = ""
        return right

    def takes_password(self, password: str) -> bool:
        """Return whether this is the password; False if there is none.

        Raises:
            TooManyError: several wrong ones came within a minute.
        """
        now = self._clock()
        full = len(self._wrong) == MOST_WRONG
        if full and now - self._wrong[0] < PATIENCE:
            raise TooManyError(PATIENCE - (now - self._wrong[0]))
        right = bool(self.password) and _same(password, self.password)
        if not right:
            self._wrong.append(now)
        return right

    def knows(self, cookies: Mapping[str, str]) -> bool:
        """Return whether a request's cookies hold the secret."""
        return _same(cookies.get(self.cookie, ""), self.secret)

    @property
    def set_cookie(self) -> str:
        """The header that gives a browser the secret, for a year."""
        return f"{self.cookie}={self.secret}; HttpOnly; SameSite=Strict; Path=/; Max-Age=31536000"


class TooManyError(CoinageError):
    """Too many wrong passwords; `seconds` to wait."""

    def __init__(self, seconds: float) -> None:
        self.seconds = int(seconds) + 1
        super().__init__("too many wrong passwords", hint=f"try again in {self.seconds} seconds")


def _same(given: str, known: str) -> bool:
    """Compare in a time that does not tell how much of it is right."""
    return secrets.compare_digest(given.encode(errors="replace"), known.encode())


def kept_secret(path: Path) -> str:
    """Return the secret of a workspace's sessions, which only its owner may read; made if it is missing.

    Raises:
        CoinageError: it cannot be read or written.
    """
    try:
        secret = read_text(path, most=1024).strip()
    except CoinageError:
        secret = ""
    if len(secret) == SECRET_LENGTH and secret.isalnum():
        return secret
    secret = secrets.token_hex(SECRET_LENGTH // 2)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        # Nobody else can read it at any moment
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secret)
    except OSError as error:
        raise CoinageError(f"cannot write the file: {error.strerror}", str(path)) from error
    return secret
