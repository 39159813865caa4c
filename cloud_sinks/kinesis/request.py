"""PutRecords with a body that is put together here.

botocore looks at each character of a record's base64 for something to escape, which takes as long as everything else of a request
together. Endpoint, signature, answer and errors stay botocore's. Source: Amazon Kinesis Data Streams API Reference, PutRecords.
"""

from __future__ import annotations

import binascii
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from .records import Record

if TYPE_CHECKING:
    from botocore.client import BaseClient

_CALL: Final = "before-call.kinesis.PutRecords"
_PLACE: Final = {"Data": b"", "PartitionKey": "-"}


def put_records(client: BaseClient, records: Sequence[Record], target: Mapping[str, str]) -> Mapping[str, Any]:
    """The service's answer to one request. Raises what the client raises. For the thread that owns the client."""
    body, used = _body(records, target), False

    def replace(params: dict[str, Any], **_: object) -> None:
        nonlocal used
        params["body"], used = body, True

    client.meta.events.register(_CALL, replace)
    try:
        answer: Mapping[str, Any] = client.put_records(Records=[_PLACE], **target)
    finally:
        client.meta.events.unregister(_CALL, replace)
    if not used:
        raise RuntimeError("this version of botocore does not announce a call; the records were not sent")
    return answer


def _body(records: Sequence[Record], target: Mapping[str, str]) -> bytes:
    parts = [json.dumps(dict(target)).encode()[:-1], b',"Records":[']
    for number, record in enumerate(records):
        parts += [b',{"Data":"' if number else b'{"Data":"', binascii.b2a_base64(record.data, newline=False)]
        parts += [b'","PartitionKey":', json.dumps(record.key).encode(), b"}"]
    return b"".join([*parts, b"]}"])
