"""A lake in a bucket of S3, or of a server that speaks like it: `s3://bucket/prefix`.

A file is published with `If-None-Match: *`, so that a name is given once, whoever tries. Source: Amazon S3 User Guide, "How to
prevent object overwrites with conditional writes".
"""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from cloud_sinks.aws import Account
from schemas.errors import Busy, ConfigError

if TYPE_CHECKING:
    import structlog
    from botocore.client import BaseClient

PART: Final = 16 << 20
"""Bytes of one part of a large object; S3 takes 5 MiB and more, and at most 10,000 parts."""
_WHOLE: Final = 2 * PART
"""Up to this size an object goes in one request."""
_UPLOAD: Final = ".upload"
_TAKEN: Final = 412
_CONFLICT: Final = 409
_PROBE: Final = ".genba-probe-"


class S3Store:
    """A bucket and a prefix. Files in the making lie in `directory` on this machine. See `store.Store`; raises genba's own errors, and OSError for the local disk."""

    def __init__(
        self,
        account: Account,
        location: str,
        *,
        owner: str,
        directory: Path,
        kms_key: str | None,
        log: structlog.stdlib.BoundLogger,
    ) -> None:
        """`location` is `s3://bucket/prefix`; `directory` is on this machine and private to the sink."""
        self._bucket, _, prefix = location.removeprefix("s3://").strip("/").partition("/")
        self._prefix = f"{prefix}/" if prefix else ""
        self._account, self._owner, self._making, self._log = account, owner, directory / "making", log
        self._encryption: dict[str, str] = (
            {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": kms_key} if kms_key is not None else {}
        )
        self._exclusive: bool | None = None  # whether the service honours If-None-Match; not known before the first look

    def open(self) -> None:
        """Empty the place for files in the making, give up uploads that a kill left unfinished, and find out once whether the service
        keeps a name from being given twice."""
        self._abort_unfinished()
        shutil.rmtree(self._making, ignore_errors=True)
        self._making.mkdir(parents=True, exist_ok=True)
        if self._exclusive is None:
            name = f"{_PROBE}{self._owner}"
            self._exclusive = not (self._put(name, b"genba\n") and self._put(name, b"genba\n"))
            if not self._exclusive:
                self._log.warning(
                    "the object store ignores If-None-Match: a name is looked up before it is written, which two gateways of one "
                    "name could slip through",
                    bucket=self._bucket,
                )

    def examine(self) -> str:
        """One list of one name: the least that shows bucket, region, clock and credentials. Whether it may write shows when it does."""
        what = f"look into {self._url('')}"
        self._account.call("s3", what, lambda s3: s3.list_objects_v2(Bucket=self._bucket, Prefix=self._prefix, MaxKeys=1))
        return f"{self._url('')} is there"

    def scratch(self, name: str) -> Path:
        """A local path."""
        return self._making / f"{name}.part"

    def publish(self, scratch: Path, path: str) -> bool:
        """One conditional put, or a multipart upload that is completed on the same condition."""
        try:
            if not self._exclusive and self._exists(path):
                return False
            if scratch.stat().st_size <= _WHOLE:
                with scratch.open("rb") as body:
                    return self._put(path, body)
            return self._put_parts(path, scratch)
        finally:
            with contextlib.suppress(OSError):
                scratch.unlink()

    def replace(self, scratch: Path, path: str) -> None:
        """A plain put: readers see the old or the new object."""
        with scratch.open("rb") as body:
            self._account.call(
                "s3",
                f"write {self._url(path)}",
                lambda s3: s3.put_object(Bucket=self._bucket, Key=self._prefix + path, Body=_rewound(body), **self._encryption),
            )

    def reader(self, path: str) -> BinaryIO:
        """The object, read in ranges as they are asked for. Raises FileNotFoundError when there is none."""
        size = self._size(path)
        if size is None:
            raise FileNotFoundError(2, "no such object", self._url(path))
        return io.BufferedReader(_Ranges(self, path, size), 1 << 16)

    def close(self) -> None:
        """Close the connections."""
        self._account.close()

    def read(self, path: str, start: int, end: int) -> bytes:
        """Bytes start … end-1 of an object."""
        found: bytes = self._account.call(
            "s3",
            f"read {self._url(path)}",
            lambda s3: s3.get_object(Bucket=self._bucket, Key=self._prefix + path, Range=f"bytes={start}-{end - 1}")[
                "Body"
            ].read(),
        )
        return found

    def _put(self, path: str, body: bytes | BinaryIO) -> bool:
        """False when the name is taken."""
        return self._put_if(path, body, {"IfNoneMatch": "*"})

    def _put_if(self, path: str, body: bytes | BinaryIO, condition: Mapping[str, str]) -> bool:
        """False when the condition does not hold."""

        def put(s3: BaseClient) -> bool:
            return _conditional(
                lambda: s3.put_object(
                    Bucket=self._bucket, Key=self._prefix + path, Body=_rewound(body), **condition, **self._encryption
                )
            )

        return self._account.call("s3", f"write {self._url(path)}", put)

    def _put_parts(self, path: str, scratch: Path) -> bool:
        key = {"Bucket": self._bucket, "Key": self._prefix + path}
        what = f"write {self._url(path)}"
        upload = self._account.call("s3", what, lambda s3: s3.create_multipart_upload(**key, **self._encryption))["UploadId"]
        # Written down, so that after a kill the next start knows: parts that nobody completes cost money for ever.
        note, done = self._making / f"{uuid.uuid4()}{_UPLOAD}", False
        try:
            note.write_text(json.dumps({**key, "UploadId": upload}), encoding="utf-8")
            parts: list[dict[str, Any]] = []
            with scratch.open("rb") as file:
                while chunk := file.read(PART):
                    parts.append(self._part(what, {**key, "UploadId": upload, "PartNumber": len(parts) + 1, "Body": chunk}))

            def complete(s3: BaseClient) -> bool:
                return _conditional(
                    lambda: s3.complete_multipart_upload(
                        **key, UploadId=upload, MultipartUpload={"Parts": parts}, IfNoneMatch="*"
                    )
                )

            done = self._account.call("s3", what, complete)
            return done
        finally:
            if not done:
                with contextlib.suppress(Exception):  # the next start tries again
                    _abort({**key, "UploadId": upload})(self._account.client("s3"))
                    done = True
            if done:
                note.unlink(missing_ok=True)

    def _abort_unfinished(self) -> None:
        """Raises genba's own errors when the service is not there: then the notes stay for the next start."""
        for note in self._making.glob(f"*{_UPLOAD}"):
            try:
                upload = json.loads(note.read_text(encoding="utf-8"))
            except ValueError:  # torn by the kill; a lifecycle rule of the bucket finds the upload
                upload = None
            if isinstance(upload, dict) and upload.keys() == {"Bucket", "Key", "UploadId"}:
                what = f"give up an unfinished upload of s3://{upload['Bucket']}/{upload['Key']}"
                try:
                    self._account.call("s3", what, _abort(upload))
                except ConfigError as error:  # another bucket by now, or not allowed: data goes on all the same
                    self._log.warning("an unfinished upload stays in the bucket", error=str(error))
            note.unlink()

    def _part(self, what: str, part: dict[str, Any]) -> dict[str, Any]:
        answer = self._account.call("s3", what, lambda s3: s3.upload_part(**part))
        return {"PartNumber": part["PartNumber"], "ETag": answer["ETag"]}

    def _exists(self, path: str) -> bool:
        return self._size(path) is not None

    def _size(self, path: str) -> int | None:
        """Bytes of an object; None when there is none."""
        from botocore.exceptions import ClientError

        def head(s3: BaseClient) -> int | None:
            try:
                return int(s3.head_object(Bucket=self._bucket, Key=self._prefix + path)["ContentLength"])
            except ClientError as error:
                # Without the permission to list, S3 says 403 for an object that is not there, and so it must stay an error.
                if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") == 404:
                    return None
                raise

        return self._account.call("s3", f"look up {self._url(path)}", head)

    def _url(self, path: str) -> str:
        return f"s3://{self._bucket}/{self._prefix}{path}"


class _Ranges(io.RawIOBase):
    """An object as a file that is read where it is looked at."""

    def __init__(self, store: S3Store, path: str, size: int) -> None:
        self._store, self._path, self._length, self._at = store, path, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._length}[whence] + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        wanted = min(len(buffer), self._length - self._at)
        if wanted <= 0:
            return 0
        found = self._store.read(self._path, self._at, self._at + wanted)
        buffer[: len(found)] = found
        self._at += len(found)
        return len(found)


def _abort(upload: dict[str, str]) -> Callable[[BaseClient], None]:
    """One that is no longer there is what is wanted."""

    def abort(s3: BaseClient) -> None:
        with contextlib.suppress(s3.exceptions.NoSuchUpload):
            s3.abort_multipart_upload(**upload)

    return abort


def _conditional(request: Any) -> bool:
    """Run a conditional request: False for 412, the name is taken. 409 means that another one is under way: Busy."""
    from botocore.exceptions import ClientError

    try:
        request()
    except ClientError as error:
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        if status == _TAKEN:
            return False
        if status == _CONFLICT:
            raise Busy(1.0, "another write of the same object is under way") from error
        raise
    return True


def _rewound(body: bytes | BinaryIO) -> bytes | BinaryIO:
    """From its beginning, also when a request is made again."""
    if not isinstance(body, bytes):
        body.seek(0)
    return body
