"""Inventory digests: 256 buckets and a root over key -> digest (settled question 1; rules LINK-20 to LINK-22).

A bucket is the XOR of its entries, so it does not depend on order and one change costs one hash.
"""

import hashlib
from collections.abc import Iterable, Mapping
from functools import lru_cache

from proto.kit import canonical

BUCKETS = 256
DIGEST_BYTES = canonical.DIGEST_BYTES
EMPTY_BUCKET = bytes(DIGEST_BYTES)


def object_digest(body: bytes) -> bytes:
    """Return the digest of an object sent downwards; ``body`` is its canonical JSON."""
    return canonical.digest(canonical.decode(body))


def status_digest(body: bytes) -> bytes:
    """Return the digest of a status sent upwards: of its very bytes."""
    return hashlib.sha256(body).digest()[:DIGEST_BYTES]


@lru_cache(maxsize=4096)
def bucket_of(key: str) -> int:
    """Return which bucket holds ``key``."""
    return hashlib.sha256(key.encode()).digest()[0]


@lru_cache(maxsize=4096)
def _entry(key: str, digest: bytes) -> int:
    return int.from_bytes(hashlib.sha256(key.encode() + b"\0" + digest).digest()[:DIGEST_BYTES], "big")


def buckets(inventory: Mapping[str, bytes]) -> bytes:
    """Return the 256 bucket digests, joined: 4,096 bytes; an empty bucket is zero."""
    sums: dict[int, int] = {}
    for key, digest in inventory.items():
        number = bucket_of(key)
        sums[number] = sums.get(number, 0) ^ _entry(key, digest)
    out = bytearray(BUCKETS * DIGEST_BYTES)
    for number, total in sums.items():
        out[number * DIGEST_BYTES : (number + 1) * DIGEST_BYTES] = total.to_bytes(DIGEST_BYTES, "big")
    return bytes(out)


def root_of(joined: bytes) -> bytes:
    """Return the root over joined bucket digests."""
    return hashlib.sha256(joined).digest()[:DIGEST_BYTES]


def root(inventory: Mapping[str, bytes]) -> bytes:
    """Return the root of an inventory; equal roots mean equal inventories."""
    return root_of(buckets(inventory))


def differing(mine: bytes, theirs: bytes) -> bytes:
    """Return the numbers of buckets that differ between two joined bucket lists, one byte each."""
    size = DIGEST_BYTES
    return bytes(n for n in range(BUCKETS) if mine[n * size : n * size + size] != theirs[n * size : n * size + size])


def members(inventory: Mapping[str, bytes], wanted: Iterable[int]) -> dict[int, list[tuple[str, bytes]]]:
    """Return the (key, digest) pairs of the ``wanted`` buckets; every wanted bucket is there, maybe empty."""
    out: dict[int, list[tuple[str, bytes]]] = {number: [] for number in wanted}
    for key, digest in inventory.items():
        number = bucket_of(key)
        if number in out:
            out[number].append((key, digest))
    return out
