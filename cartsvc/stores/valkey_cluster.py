"""A cluster of Valkey servers: which node has which slot, followed as nodes fail and slots move.

redis-py's own client for clusters is not for threads: after a redirection that fails it gives a connection back twice,
and two threads read each other's answers (8.1). Nor does it know a deadline for all that it does.
"""

from __future__ import annotations

import random
import threading
import time
from typing import TYPE_CHECKING, Any, TypeAlias

from redis import exceptions
from redis.crc import key_slot

from cartsvc.stores.valkey_connection import Operation, current_operation, seconds_left

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from cartsvc.stores.valkey_connection import Server

Address: TypeAlias = tuple[str, int]

_REDIRECT_PAUSE_S = 0.01  # seconds: nodes that send us to each other will agree soon
_UNAVAILABLE = (exceptions.ConnectionError, exceptions.TimeoutError, exceptions.ClusterDownError)


class Cluster:
    """As much of a client as the store needs; every call belongs to a request, and keeps to its time.

    ``hosts`` are the nodes to begin with; ``connect`` makes the client of one node. A command is sent a second time
    only after a node has said that another one has the key, and so has done nothing.
    """

    def __init__(self, hosts: Iterable[Address], connect: Callable[[str, int], Server]) -> None:
        self._hosts = tuple(hosts)
        self._connect = connect
        self._nodes: dict[Address, Server] = {}
        self._members: set[Address] = set()  # replicas too: one of them may be the primary by now
        self._slot_owners: dict[int, Address] = {}  # of each slot
        self._outdated = True
        self._failed: Address | None = None  # who failed last is the last one to be asked
        self._refresh_lock = threading.Lock()

    def execute_command(self, *command: Any, node: Address | None = None) -> Any:  # noqa: ANN401 - redis-py's own
        """Send it to the node that has its key, or to this one. Raises redis-py's errors."""
        address = node or self._owner(command[3 if command[0].startswith("EVAL") else 1])
        asking, redirections = False, 0
        while True:
            try:
                return self._send(address, *command, asking=asking)
            except exceptions.AskError as there:  # "ask there this once", or as its subclass "it has moved there"
                host, port = there.node_addr
                address = (host or address[0], port)
                asking = not isinstance(there, exceptions.MovedError)
                if not asking:
                    self._slot_owners[there.slot_id] = address
            except _UNAVAILABLE:
                self._failed, self._outdated = address, True
                raise
            redirections += 1
            if redirections > 1:
                time.sleep(min(_REDIRECT_PAUSE_S, seconds_left()))

    def primaries(self) -> list[Address]:
        """The nodes that have slots, as it is now."""
        self._refresh_slots()
        return sorted(set(self._slot_owners.values()))

    def close(self) -> None:
        """Close all connections."""
        for node in list(self._nodes.values()):
            node.close()

    def _owner(self, key: bytes) -> Address:
        # Somebody may be asking already: then go on with what is known, or wait if that is nothing.
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
        """Ask one node after the other who owns what; each may take half of the time that is left."""
        others = list({*self._members, *self._hosts} - {self._failed})
        random.shuffle(others)
        error: Exception = exceptions.ClusterError("no node knows who has which slot")
        for address in others if self._failed is None else [*others, self._failed]:
            part = current_operation.set(Operation(time.monotonic() + seconds_left() / 2))
            try:
                shards = self._send(address, "CLUSTER", "SLOTS")
            except (exceptions.RedisError, OSError) as failure:
                error = failure
            else:
                if shards:  # one that was made anew knows of none
                    self._apply_slots(shards, address)
                    return
            finally:
                current_operation.reset(part)
        raise error

    def _apply_slots(self, shards: list[Any], source: Address) -> None:
        owners: dict[int, Address] = {}
        members: set[Address] = set()
        for first, last, *nodes in shards:
            # A node that does not know its own name leaves it empty: it is the one we have asked.
            addresses = [(host.decode() if host else source[0], port) for host, port, *_ in nodes]
            members.update(addresses)
            owners.update(dict.fromkeys(range(first, last + 1), addresses[0]))
        self._slot_owners, self._members = owners, members
        self._failed, self._outdated = None, False
        for gone in set(self._nodes) - members:
            node = self._nodes.pop(gone, None)
            if node is not None:
                node.close()

    def _send(self, address: Address, *command: Any, asking: bool = False) -> Any:  # noqa: ANN401 - redis-py's own
        node = self._nodes.get(address)
        if node is None:
            node = self._nodes.setdefault(address, self._connect(*address))
        return node.execute_command(*command, asking=asking)
