"""A client of a cluster of Valkey servers, which follows its slots as nodes fail and slots move.

redis-py's own client for clusters (8.1) is not safe to use from threads: after a failed redirection it returns a
connection to its pool twice, and two threads read each other's responses. It also has no deadline for a whole request.
"""

from __future__ import annotations

import random
import threading
import time
from typing import TYPE_CHECKING, Any, TypeAlias

from redis import exceptions
from redis.crc import key_slot

from cartsvc.stores.operation import Operation, current_operation, seconds_left

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from cartsvc.stores.valkey_connection import Server

Address: TypeAlias = tuple[str, int]

_REDIRECT_PAUSE_S = 0.01  # nodes that redirect to each other agree soon
_UNAVAILABLE = (exceptions.ConnectionError, exceptions.TimeoutError, exceptions.ClusterDownError)


class Cluster:
    """The part of a client that the store needs. Every call belongs to an operation and keeps to its deadline.

    ``hosts`` are the first nodes to connect to; ``connect`` makes the client of one node. A command is sent again only
    after a node has redirected it to another node, and so has done nothing.
    """

    def __init__(self, hosts: Iterable[Address], connect: Callable[[str, int], Server]) -> None:
        self._hosts = tuple(hosts)
        self._connect = connect
        self._nodes: dict[Address, Server] = {}
        self._members: set[Address] = set()  # including replicas, because a replica may be the primary by now
        self._slot_owners: dict[int, Address] = {}
        self._outdated = True
        self._failed: Address | None = None  # the node that failed last is queried last
        self._refresh_lock = threading.Lock()

    def execute_command(self, *command: Any, node: Address | None = None) -> Any:  # noqa: ANN401 - redis-py's own
        """Send the command to ``node``, or to the node that has its key. Raises the errors of redis-py."""
        address = node or self._owner(command[3 if command[0].startswith("EVAL") else 1])
        asking, redirections = False, 0
        while True:
            try:
                return self._send(address, *command, asking=asking)
            except exceptions.AskError as redirection:  # ASK: for this command only; MOVED, its subclass: from now on
                host, port = redirection.node_addr
                address = (host or address[0], port)
                asking = not isinstance(redirection, exceptions.MovedError)
                if not asking:
                    self._slot_owners[redirection.slot_id] = address
            except _UNAVAILABLE:
                self._failed, self._outdated = address, True
                raise
            redirections += 1
            if redirections > 1:
                time.sleep(min(_REDIRECT_PAUSE_S, seconds_left()))

    def primaries(self) -> list[Address]:
        """Return the nodes that have slots, after a refresh."""
        self._refresh_slots()
        return sorted(set(self._slot_owners.values()))

    def close(self) -> None:
        """Close all connections."""
        for node in list(self._nodes.values()):
            node.close()

    def _owner(self, key: bytes) -> Address:
        # If another thread is refreshing, use the slots that are known, or wait for the thread if none are.
        if self._outdated and self._refresh_lock.acquire(timeout=0 if self._slot_owners else seconds_left()):
            try:
                if self._outdated:
                    self._refresh_slots()
            finally:
                self._refresh_lock.release()
        owner = self._slot_owners.get(key_slot(key))
        if owner is None:
            self._outdated = True
            raise exceptions.ClusterError("no node is known that has this slot")
        return owner

    def _refresh_slots(self) -> None:
        """Query the nodes in turn for the owners of all slots. Each query may take half of the remaining time."""
        others = list({*self._members, *self._hosts} - {self._failed})
        random.shuffle(others)
        error: Exception = exceptions.ClusterError("no node knows the owners of the slots")
        for address in others if self._failed is None else [*others, self._failed]:
            part = current_operation.set(Operation(time.monotonic() + seconds_left() / 2))
            try:
                shards = self._send(address, "CLUSTER", "SLOTS")
            except (exceptions.RedisError, OSError) as failure:
                error = failure
            else:
                if shards:  # a node that was reset has none
                    self._apply_slots(shards, address)
                    return
            finally:
                current_operation.reset(part)
        raise error

    def _apply_slots(self, shards: list[Any], source: Address) -> None:
        owners: dict[int, Address] = {}
        members: set[Address] = set()
        for first, last, *nodes in shards:
            # A node that does not know its own name leaves it empty; it is the node that was queried.
            addresses = [(host.decode() if host else source[0], port) for host, port, *_ in nodes]
            members.update(addresses)
            owners.update(dict.fromkeys(range(first, last + 1), addresses[0]))
        self._slot_owners, self._members = owners, members
        self._failed, self._outdated = None, False
        for removed in set(self._nodes) - members:
            node = self._nodes.pop(removed, None)
            if node is not None:
                node.close()

    def _send(self, address: Address, *command: Any, asking: bool = False) -> Any:  # noqa: ANN401 - redis-py's own
        node = self._nodes.get(address)
        if node is None:
            node = self._nodes.setdefault(address, self._connect(*address))
        return node.execute_command(*command, asking=asking)
