"""Where a lake is read from: a directory, or a bucket of S3 (or of a server that speaks like it). For notebooks and jobs; everything blocks.

Imports neither polars nor boto3 before it is needed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypedDict

if TYPE_CHECKING:
    from botocore.client import BaseClient


class Access(TypedDict):
    """How a bucket is reached, as keyword arguments."""

    region: str | None
    endpoint: str | None
    profile: str | None


class Place(Protocol):
    """The few operations that reading takes. Folders are relative, `/` between them."""

    def names(self, folder: str) -> list[str]:
        """Names of the files and folders in a folder; none when there is no such folder."""
        ...

    def read(self, path: str) -> bytes | None:
        """The bytes of a small file; None when there is none."""
        ...

    def address(self, path: str) -> str:
        """A file as polars opens it."""
        ...

    @property
    def above(self) -> tuple[str, ...]:
        """Names of the folders above the lake."""
        ...

    @property
    def options(self) -> Mapping[str, str] | None:
        """What polars needs besides, as its `storage_options`."""
        ...


@dataclass(frozen=True, slots=True)
class Directory:
    """A lake in a directory."""

    root: Path

    def names(self, folder: str) -> list[str]:
        """See `Place`."""
        try:
            return os.listdir(self.root / folder)
        except (FileNotFoundError, NotADirectoryError):
            return []

    def read(self, path: str) -> bytes | None:
        """See `Place`."""
        try:
            return (self.root / path).read_bytes()
        except FileNotFoundError:
            return None

    def address(self, path: str) -> str:
        """See `Place`."""
        return str(self.root / path)

    @property
    def above(self) -> tuple[str, ...]:
        """See `Place`."""
        return self.root.parts

    @property
    def options(self) -> Mapping[str, str] | None:
        """Nothing."""
        return None


class Bucket:
    """A lake in a bucket. Credentials as boto3 finds them: environment, profile, container, instance."""

    def __init__(self, location: str, *, region: str | None, endpoint: str | None, profile: str | None) -> None:
        """Raises ValueError where boto3 is missing, or no credentials or region are found."""
        try:
            import boto3
            from botocore.config import Config
        except ImportError as error:
            raise ValueError(f"{location}: reading a bucket needs boto3; install it: pip install boto3") from error
        self._bucket, _, prefix = location.removeprefix("s3://").strip("/").partition("/")
        self._prefix = f"{prefix}/" if prefix else ""
        session = boto3.Session(profile_name=profile, region_name=region)
        if session.region_name is None:  # polars and the other SDKs know this name, boto3 does not
            session = boto3.Session(profile_name=profile, region_name=os.environ.get("AWS_REGION"))
        found = session.get_credentials()
        if found is None:
            raise ValueError(f"{location}: no AWS credentials were found; set AWS_ACCESS_KEY_ID …, or name a profile")
        if session.region_name is None:
            raise ValueError(
                f"{location}: no region is known; give region= (--region), or set AWS_REGION, for instance ap-northeast-1"
            )
        self._s3: BaseClient = session.client(
            "s3", endpoint_url=endpoint, config=Config(s3={"addressing_style": "path" if endpoint else "auto"})
        )
        endpoint = endpoint or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")  # as boto3 does
        keys = found.get_frozen_credentials()
        options = {
            "aws_access_key_id": keys.access_key,
            "aws_secret_access_key": keys.secret_key,
            "aws_session_token": keys.token,
            "aws_region": session.region_name,
            "aws_endpoint_url": endpoint,
            "aws_allow_http": "true" if endpoint is not None and endpoint.startswith("http://") else None,
        }
        self._options = {name: value for name, value in options.items() if value is not None}

    def names(self, folder: str) -> list[str]:
        """See `Place`."""
        prefix = f"{self._prefix}{folder}/" if folder else self._prefix
        found: list[str] = []
        pages: Any = self._s3.get_paginator("list_objects_v2")
        for page in pages.paginate(Bucket=self._bucket, Prefix=prefix, Delimiter="/"):
            found += [one["Prefix"][len(prefix) :].rstrip("/") for one in page.get("CommonPrefixes", ())]
            found += [one["Key"][len(prefix) :] for one in page.get("Contents", ())]
        return found

    def read(self, path: str) -> bytes | None:
        """See `Place`."""
        try:
            found: bytes = self._s3.get_object(Bucket=self._bucket, Key=self._prefix + path)["Body"].read()
        except self._s3.exceptions.NoSuchKey:
            return None
        return found

    def address(self, path: str) -> str:
        """See `Place`."""
        return f"s3://{self._bucket}/{self._prefix}{path}"

    @property
    def above(self) -> tuple[str, ...]:
        """See `Place`."""
        return tuple(self._prefix.split("/"))

    @property
    def options(self) -> Mapping[str, str] | None:
        """Region, endpoint and the credentials as they are now."""
        return self._options


def place_of(
    location: str | Path, *, region: str | None = None, endpoint: str | None = None, profile: str | None = None
) -> Place:
    """The place that a location names. Raises ValueError for one that cannot be read."""
    text = str(location)
    if text.startswith("s3://"):
        return Bucket(text, region=region, endpoint=endpoint, profile=profile)
    if "://" in text:
        raise ValueError(f"{text}: only directories and s3:// can be read")
    return Directory(Path(text))
