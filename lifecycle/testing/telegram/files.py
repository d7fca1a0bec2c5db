"""The files that people and the bot have sent, and how the Bot API describes them."""

import mimetypes
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any, Final

from lifecycle.testing.telegram.calls import Json, UploadedFile

#: Of each kind of file, what the Bot API says besides its name and size. Nobody measures here.
KINDS: Final[dict[str, Json]] = {
    "photo": {"width": 1280, "height": 960},
    "document": {},
    "audio": {"duration": 1},
    "video": {"width": 1280, "height": 720, "duration": 1},
    "animation": {"width": 320, "height": 240, "duration": 1},
    "voice": {"duration": 1},
    "video_note": {"length": 240, "duration": 1},
    "sticker": {
        "type": "regular",
        "width": 512,
        "height": 512,
        "is_animated": False,
        "is_video": False,
    },
}
#: Bytes of a file that a bot may download.
LARGEST: Final = 20 * 2**20

_PREVIEW: Final = {"width": 90, "height": 68}
_NAMED: Final = frozenset(("document", "audio", "video", "animation"))
_TYPES: Final = {"voice": "audio/ogg", "audio": "audio/mpeg", "video": "video/mp4"}
_SUFFIXES: Final = {"photo": ".jpg", "voice": ".oga", "sticker": ".webp", "video_note": ".mp4"}


class Files:
    """Files by the id under which they can be sent again and downloaded."""

    def __init__(self) -> None:
        self._files: dict[str, UploadedFile] = {}
        self._paths: dict[str, str] = {}
        self._links: dict[tuple[str, str], str] = {}

    def keep(self, kind: str, file: UploadedFile) -> str:
        """Keep a file.

        Args:
            kind: `photo`, `document` and so on.
            file: The file.

        Returns:
            Its id.
        """
        number = len(self._files) + 1
        file_id = f"local_{kind}_{number}"
        suffix = PurePosixPath(file.name).suffix or _SUFFIXES.get(kind, "")
        self._files[file_id] = file
        self._paths[file_id] = f"{kind}s/file_{number}{suffix}"
        return file_id

    def name(self, kind: str, link: str) -> str:
        """Return an id for a file of which only the *link* is known; nothing is fetched."""
        return self._links.setdefault((kind, link), f"linked_{kind}_{len(self._links) + 1}")

    def get(self, file_id: str) -> UploadedFile | None:
        """Return a file; None for an id or link of somebody else's."""
        return self._files.get(file_id)

    def at(self, path: str) -> UploadedFile | None:
        """Return the file that is downloaded from *path*."""
        return next((self._files[key] for key, each in self._paths.items() if each == path), None)

    def to_download(self, file_id: str) -> Json:
        """Return what `getFile` answers; call it with an id that is kept."""
        return {**self._head(file_id), "file_path": self._paths[file_id]}

    def described(self, kind: str, file_id: str, given: Mapping[str, Any]) -> Any:
        """Return a file as it stands in a message.

        Args:
            kind: `photo`, `document` and so on.
            file_id: Its id.
            given: What the sender says about it: `duration`, `width` and so on.
        """
        head = self._head(file_id)
        known = KINDS[kind] | {key: given[key] for key in KINDS[kind] if key in given}
        if kind == "photo":
            preview = {**head, "file_unique_id": f"{head['file_unique_id']}s", **_PREVIEW}
            return [preview, {**head, **known}]
        file = self._files.get(file_id)
        if file is not None and kind in _NAMED:
            known = {**known, "file_name": file.name}
        guessed = mimetypes.guess_type(file.name)[0] if file is not None else None
        if mime_type := guessed or _TYPES.get(kind):
            known = {**known, "mime_type": mime_type}
        return {**head, **known}

    def _head(self, file_id: str) -> Json:
        file = self._files.get(file_id)
        size = {} if file is None else {"file_size": len(file.content)}
        return {"file_id": file_id, "file_unique_id": f"u{file_id[-60:]}", **size}


def kind_of(message: Json) -> str | None:
    """Return the kind of file that a message has."""
    return next((kind for kind in KINDS if kind in message), None)
