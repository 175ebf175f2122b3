"""The wire format: key expressions, and the headers beside each image and each feature vector.

The engine frames and delivers; these headers say which request a message belongs to, which bundle computed it, how
much time is left, and carry a digest of the payload.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from edgevit.schema.plan import Plan

Encoding = Literal["raw", "jpeg", "png"]
_ENCODINGS: tuple[Encoding, ...] = ("raw", "jpeg", "png")
_DIGEST: Final = 16
"""Bytes of the BLAKE2b digests in headers and in the keys of liveliness tokens."""
_REQUEST = struct.Struct("<4sQdB?16s16s")
_REPLY = struct.Struct("<4sQdd16s16s")
_ASK, _SAY = b"EVq2", b"EVr2"
FOLLOW_S: Final = (0.004, 0.012)
"""When packets follow a message on a link that loses some: QUIC declares a packet lost when a later one was
acknowledged, and where there is none only after 30 ms and more."""

BUSY, EXPIRED, OTHER_PLAN, BAD_REQUEST = b"busy", b"expired", b"another plan", b"bad request"


class Malformed(ValueError):
    """A message of the wrong length, kind or content."""


def infer_key(fleet: str, member: str) -> str:
    """Key expression for feature queries to a member."""
    return f"edgevit/{fleet}/{member}/infer"


def status_key(fleet: str, member: str) -> str:
    """Key expression for status queries to a member."""
    return f"edgevit/{fleet}/{member}/status"


def alive_key(fleet: str, member: str, digest: str) -> str:
    """Key expression of a member's liveliness token; it includes the digest of its bundles."""
    return f"edgevit/{fleet}/{member}/alive/{digest}"


def client_key(fleet: str, what: str) -> str:
    """Key expression for client requests to the coordinator."""
    return f"edgevit/{fleet}/coordinator/{what}"


def nudge_key(fleet: str) -> str:
    """Key expression of the empty packet that the coordinator sends behind an image."""
    return f"edgevit/{fleet}/nudge"


def all_alive(fleet: str) -> str:
    """Key expression that matches the tokens of all members."""
    return alive_key(fleet, "*", "*")


def read_alive(key: str) -> tuple[str, str]:
    """The member name and bundle digest in a token's key."""
    parts = key.split("/")
    return parts[2], parts[4]


def member_digest(plan: Plan, member: str) -> bytes:
    """16 bytes that identify a member's bundles and their order."""
    return digest_of("\n".join(one.bundle_sha256 for one in plan.of(member)).encode())


def digest_of(data: bytes) -> bytes:
    """BLAKE2b digest of 16 bytes."""
    return hashlib.blake2b(data, digest_size=_DIGEST).digest()


@dataclass(frozen=True)
class Request:
    """The header of an image.

    Attributes:
        number: of the request, unique for one coordinator.
        budget: seconds left when it was sent; a member does not start a request that is over.
        encoding: of the image.
        member: `member_digest` that the coordinator expects.
        lossy: whether the link lost packets lately, so that some should follow the answer.
    """

    number: int
    budget: float
    encoding: Encoding
    member: bytes
    lossy: bool = False

    def pack(self, payload_digest: bytes) -> bytes:
        """The header as bytes, the attachment of a query."""
        encoding = _ENCODINGS.index(self.encoding)
        return _REQUEST.pack(_ASK, self.number, self.budget, encoding, self.lossy, self.member, payload_digest)


def read_request(attachment: bytes, payload: bytes) -> Request:
    """Check and read a query.

    Raises:
        Malformed: of another length or kind, or the image is not the one that was sent.
    """
    try:
        kind, number, budget, encoding, lossy, member, digest = _REQUEST.unpack(attachment)
    except struct.error as error:
        raise Malformed(str(error)) from error
    if kind != _ASK or encoding >= len(_ENCODINGS) or not budget >= 0:
        raise Malformed("not a request")
    if digest != digest_of(payload):
        raise Malformed("the image was changed on its way")
    return Request(number, budget, _ENCODINGS[encoding], member, lossy)


@dataclass(frozen=True)
class Reply:
    """The header of a feature vector.

    Attributes:
        number: of the request.
        compute: seconds that the sub-models ran.
        waited: seconds between arrival and start.
        member: `member_digest` of what computed it.
    """

    number: int
    compute: float
    waited: float
    member: bytes

    def pack(self, payload: bytes) -> bytes:
        """The header as bytes, the attachment of a reply."""
        return _REPLY.pack(_SAY, self.number, self.compute, self.waited, self.member, digest_of(payload))


def read_reply(
    attachment: bytes, payload: bytes, *, number: int, member: bytes, features: int
) -> tuple[Reply, NDArray[np.float32]]:
    """Check and read a reply.

    Args:
        attachment: its header.
        payload: float16, little-endian; see `as_sent`.
        number: of the request that it must answer.
        member: digest that it must come from.
        features: how many there must be.

    Raises:
        Malformed: anything else.
    """
    try:
        kind, answered, compute, waited, owner, digest = _REPLY.unpack(attachment)
    except struct.error as error:
        raise Malformed(str(error)) from error
    if kind != _SAY or answered != number:
        raise Malformed("not the answer to this request")
    if owner != member:
        raise Malformed("computed by another bundle")
    if len(payload) != 2 * features or digest != digest_of(payload):
        raise Malformed("the features were changed on their way")
    values = np.frombuffer(payload, "<f2").astype(np.float32)
    if not np.isfinite(values).all():
        raise Malformed("features that are not finite")
    return Reply(answered, compute, waited, owner), values
