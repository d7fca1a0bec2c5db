"""Files in calls of the Bot API: what is kept of one, and how it is found again."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from aiogram.types import BufferedInputFile, FSInputFile, InputFile, URLInputFile

from db_manager.delivery.table.claims import KeptFile
from db_manager.sending import NotStorableError

#: In the JSON of a call: here is a file of this name, or one that is at this URL.
_KEPT: Final = "db_manager:file"
_AT: Final = "db_manager:url"
_INSTEAD: Final = "send a file_id or a URL, or send it after the unit without `uow.send`"


class FilesOf:
    """Takes the files out of one call.

    Args:
        method: Name of the method.
        most: Bytes that a file has at most.

    Attributes:
        method: The same.
        found: Those that are kept by their content.
    """

    def __init__(self, method: str, most: int) -> None:
        self.method = method
        self._most = most
        self.found: list[KeptFile] = []

    def take(self, field: str, file: InputFile) -> dict[str, Any]:
        """Return what stands for *file* in the JSON of the call.

        Args:
            field: Where it is in the call.
            file: The file; one of the file system is read now.

        Raises:
            NotStorableError: It is too large, or only its own code can read it.
            OSError: There is no such file, or it cannot be read.
        """
        # A subclass may read itself in another way.
        if type(file) is URLInputFile and not file.headers and file.bot is None:
            return {_AT: file.url, "name": file.filename, "timeout": file.timeout}
        if type(file) is BufferedInputFile:
            content = file.data
        elif type(file) is FSInputFile:
            self._check(field, Path(file.path).stat().st_size)
            content = Path(file.path).read_bytes()
        elif type(file) is URLInputFile:
            raise self._refusal(
                field, "is a URLInputFile with headers or a bot of its own, which may be secrets"
            )
        else:
            raise self._refusal(
                field, f"is of the type {type(file).__name__}, which only its own code reads"
            )
        self._check(field, len(content))
        self.found.append(KeptFile(field, file.filename or "file", bytes(content)))
        return {_KEPT: field}

    def _check(self, field: str, size: int) -> None:
        if size > self._most:
            raise self._refusal(
                field, f"has {size} bytes, and [delivery] max_file allows {self._most}"
            )

    def _refusal(self, field: str, why: str) -> NotStorableError:
        return NotStorableError(self.method, field, f"{why}; {_INSTEAD}")


def has_markers(payload: str) -> bool:
    """Return True if something has to be put back into a call."""
    return has_files(payload) or f'"{_AT}"' in payload


def has_files(payload: str) -> bool:
    """Return True if a call has files that are kept by their content."""
    return f'"{_KEPT}"' in payload


def put_back(value: Any, files: Mapping[str, KeptFile]) -> Any:
    """Return the JSON of a call with its files in their places.

    Args:
        value: What `FilesOf` has left of it.
        files: Those that are kept, by their fields.

    Raises:
        LookupError: One of them is not there.
    """
    match value:
        case {"db_manager:file": field}:
            return BufferedInputFile(files[field].content, filename=files[field].name)
        case {"db_manager:url": url, "name": name, "timeout": timeout}:
            return URLInputFile(url, filename=name, timeout=timeout)
        case dict():
            return {key: put_back(each, files) for key, each in value.items()}
        case list():
            return [put_back(each, files) for each in value]
    return value
