"""Values from one process to another over a pipe; their tensors lie in nameless shared memory.

The memory is a file descriptor, sent along with the message. A killed process leaves nothing behind, neither in
/dev/shm, whose size does not matter either, nor in a table of names.
"""

from __future__ import annotations

import io
import mmap
import os
import pickle
import socket
import struct
import tempfile
from collections.abc import Sequence
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from typing import Any

import torch

SMALLEST_SHARED = 64 * 1024  # bytes; below, a tensor is quicker inside the message
COUNT = 4  # bytes before a message: the number of descriptors that follow it
MOST_AT_ONCE = 200  # descriptors; the kernel takes 253
SHARES = hasattr(socket, "send_fds")  # elsewhere (Windows) every tensor is inside the message
MAP_NOW = mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0) if SHARES else 0  # all pages at once, not one by one

_shared: dict[int, int] = {}  # address -> file descriptor, of tensors made by `new_tensor` and not yet sent
_sender = False


def become_sender() -> None:
    """Have `new_tensor` return shared memory from now on; called once in a worker."""
    global _sender
    _sender = SHARES


def new_tensor(shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    """Return an uninitialised tensor; in a worker it lies in memory that `send` passes on without a copy."""
    size = torch.Size(shape).numel() * dtype.itemsize
    if not _sender or size < SMALLEST_SHARED:
        return torch.empty(tuple(shape), dtype=dtype)
    descriptor, memory = _new_memory(size)
    _shared[memory.data_ptr()] = descriptor
    return memory.view(dtype).view(tuple(shape))


def send(connection: Connection, value: Any) -> None:
    """Send anything that can be pickled. Raises OSError if nobody listens any more."""
    file = io.BytesIO(bytes(COUNT))
    file.seek(COUNT)
    pickler = _Pickler(file)
    try:
        pickler.dump(value)
        message = file.getbuffer()
        message[:COUNT] = len(pickler.descriptors).to_bytes(COUNT)
        connection.send_bytes(message)
        send_descriptors(connection, pickler.descriptors)
    finally:
        for descriptor in {*pickler.descriptors, *_shared.values()}:
            os.close(descriptor)
        _shared.clear()


def receive(connection: Connection) -> Any:
    """Return the next value. Raises EOFError or OSError if the sender has gone, even in the middle of a message."""
    message = connection.recv_bytes()
    descriptors: list[int] = []
    try:
        count = int.from_bytes(message[:COUNT])
        receive_descriptors(connection, count, descriptors)
        return _Unpickler(io.BytesIO(memoryview(message)[COUNT:]), descriptors).load()
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def send_descriptors(connection: Connection, descriptors: Sequence[int]) -> None:
    """Send open files, which stay open here."""
    for start in range(0, len(descriptors), MOST_AT_ONCE):
        with _as_socket(connection) as channel:
            socket.send_fds(channel, [b"\0"], descriptors[start : start + MOST_AT_ONCE])


def receive_descriptors(connection: Connection, count: int, received: list[int]) -> None:
    """Append the next `count` open files to `received`, for the caller to close. Raises EOFError or OSError."""
    while len(received) < count:
        with _as_socket(connection) as channel:
            more = min(MOST_AT_ONCE, count - len(received))
            _, descriptors, _, _ = socket.recv_fds(channel, 1, more, getattr(socket, "MSG_CMSG_CLOEXEC", 0))
        if not descriptors:
            raise EOFError
        received += descriptors


def limit_waiting(connection: Connection, seconds: float) -> None:
    """Have sending and receiving raise BlockingIOError after this many seconds without a byte."""
    with _as_socket(connection) as channel:
        time = struct.pack("ll", int(seconds), max(int(seconds % 1 * 1e6), 1))
        channel.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, time)
        channel.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, time)


class _Pickler(ForkingPickler):
    """Takes tensors out of the message: (dtype, shape, stride, and their bytes or the place of their descriptor)."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, pickle.HIGHEST_PROTOCOL)
        self.descriptors: list[int] = []

    def persistent_id(self, value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return None
        assert value.device.type == "cpu" and not value.requires_grad, "only data crosses processes"
        dense = value if value.untyped_storage().nbytes() == value.nbytes else value.clone()
        flat = torch.empty(0, dtype=torch.uint8).set_(dense.untyped_storage())
        return value.dtype, tuple(dense.shape), dense.stride(), self._content(flat)

    def _content(self, flat: torch.Tensor) -> bytes | int:
        if not SHARES or len(flat) < SMALLEST_SHARED:
            return flat.numpy().tobytes()
        descriptor = _shared.pop(flat.data_ptr(), None)
        if descriptor is None:
            descriptor, memory = _new_memory(len(flat))
            memory.copy_(flat)
        self.descriptors.append(descriptor)
        return len(self.descriptors) - 1


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, descriptors: Sequence[int]) -> None:
        super().__init__(file)
        self.descriptors = descriptors

    def persistent_load(self, tensor: Any) -> torch.Tensor:
        dtype, shape, stride, content = tensor
        if content == b"":
            return torch.empty(shape, dtype=dtype)
        return self._memory(content).view(dtype).as_strided(shape, stride)

    def _memory(self, content: bytes | int) -> torch.Tensor:
        if isinstance(content, bytes):
            return torch.frombuffer(bytearray(content), dtype=torch.uint8)
        descriptor = self.descriptors[content]
        return _mapped(descriptor, os.fstat(descriptor).st_size)


def _new_memory(size: int) -> tuple[int, torch.Tensor]:
    """Return a descriptor, which the caller closes, and its memory as uint8 (size,)."""
    descriptor = new_file(size)
    return descriptor, _mapped(descriptor, size)


def new_file(size: int) -> int:
    """Return a descriptor of a nameless file of `size` zeros in memory; the caller closes it."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("hybridvideo")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.truncate(descriptor, size)
    return descriptor


def _mapped(descriptor: int, size: int) -> torch.Tensor:
    """uint8 (size,): unmapped when the last tensor on it goes."""
    return torch.frombuffer(mmap.mmap(descriptor, size, flags=MAP_NOW), dtype=torch.uint8)


def _as_socket(connection: Connection) -> socket.socket:
    return socket.socket(fileno=os.dup(connection.fileno()))
