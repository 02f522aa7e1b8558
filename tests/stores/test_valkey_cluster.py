"""The Valkey store on a real cluster: the suite of all stores, slots that move, and nodes that fail."""

from __future__ import annotations

import itertools
import re
import socket
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from redis.crc import key_slot

from cartsvc.errors import OutcomeUnknown, StoreError
from cartsvc.stores.operation import Operation, current_operation
from cartsvc.stores.urls import ValkeyConfig, parse_store_url
from cartsvc.stores.valkey import ValkeyStore
from tests.support.clock import FakeClock
from tests.support.ports import free_port
from tests.support.records import a_record, adding, at_once, put
from tests.support.store_contract import StoreContract
from tests.support.valkeys import cluster, eventually, valkey

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cartsvc.carts.record import Record
    from cartsvc.carts.store import CartStore
    from tests.support.valkeys import Valkey

THREADS = 8
PAUSE_S = 0.01  # between two adds of a thread under load
SECONDS = 20  # for what must happen soon
USERS = [f"u{number}" for number in range(24)]


@pytest.fixture(scope="module")
def nodes() -> Iterator[list[Valkey]]:
    """Three nodes; a test that hurts them heals them."""
    with cluster() as running:
        yield running


@pytest.fixture(scope="module")
def pairs() -> Iterator[list[Valkey]]:
    """Four primaries, then the replica of each; a test that hurts them has a pair of its own."""
    with cluster(primaries=4, replicas=1) as running:
        yield running


@pytest.fixture
def clock() -> FakeClock:
    """It begins at the real time, for the servers clear away by theirs."""
    return FakeClock(time.time_ns() // 1_000_000)


@contextmanager
def opened(
    nodes: list[Valkey], clock: FakeClock, *, timeout: float = SECONDS, before: str = ""
) -> Iterator[ValkeyStore]:
    """A store on these nodes; ``before`` stands before them in its URL."""
    config = parse_store_url(f"valkey+cluster://{before}" + ",".join(f"127.0.0.1:{node.port}" for node in nodes))
    assert isinstance(config, ValkeyConfig)
    store = ValkeyStore(config, clock=clock, timeout=timeout)
    yield store
    store.close()


class TestContract(StoreContract):
    """The suite of all stores, on three nodes."""

    THREADS = THREADS
    ADDS = 20
    PART = 6

    @pytest.fixture
    def clock(self, clock: FakeClock) -> FakeClock:
        """The clock the store is opened with."""
        return clock

    @pytest.fixture
    def store(self, clock: FakeClock, nodes: list[Valkey]) -> Iterator[CartStore]:
        """The store under test."""
        for node in nodes:
            with node.client() as client:
                client.flushall()
        with opened(nodes, clock) as store:
            yield store


# ---- under load ----


class Load:
    """Threads that add to carts with short pauses, and the outcomes of their adds.

    They use several stores, as those of other processes would, for within one of them they take turns.
    """

    def __init__(self, stores: list[ValkeyStore], clock: FakeClock, users: list[str]) -> None:
        self._stores, self._clock, self._users = stores, clock, users
        self._acknowledged: list[Counter[str]] = [Counter() for _ in range(THREADS)]
        self._over = threading.Event()
        self._raised: list[BaseException] = []
        self.refused: list[StoreError] = []
        self._unknown: list[Counter[str]] = [Counter() for _ in range(THREADS)]

    @contextmanager
    def running(self) -> Iterator[None]:
        """Inside of it they work. What is no StoreError comes out."""
        runner = threading.Thread(target=self._run)
        runner.start()
        try:
            yield
        finally:
            self._over.set()
            runner.join()
        if self._raised:
            raise self._raised[0]

    def acknowledged(self) -> Counter[str]:
        """How many adds to each cart were accepted."""
        return sum(self._acknowledged, Counter())

    def unknown(self) -> Counter[str]:
        """How many adds to each cart were accepted or not."""
        return sum(self._unknown, Counter())

    def wait_for_each(self) -> None:
        """Return once each cart has taken another add."""
        before, deadline = self.acknowledged(), time.monotonic() + SECONDS
        while any(self.acknowledged()[user] == before[user] for user in self._users):
            assert not self._raised, self._raised
            assert time.monotonic() < deadline, f"the store has not recovered: {self.refused[-1:]}"
            time.sleep(0.005)

    def _run(self) -> None:
        try:
            at_once(THREADS, self._work)
        except BaseException as error:  # noqa: BLE001 - it is raised again by running()
            self._raised.append(error)

    def _work(self, number: int) -> None:
        store = self._stores[number % len(self._stores)]
        turn = number
        while not self._over.wait(PAUSE_S):
            user = self._users[turn % len(self._users)]
            turn += 1
            try:
                store.update(user, adding(self._clock))
            except StoreError as error:
                self.refused.append(error)
                self._unknown[number][user] += isinstance(error, OutcomeUnknown)
            else:
                self._acknowledged[number][user] += 1


def quantities(store: CartStore, users: list[str]) -> dict[str, int]:
    """What the carts hold."""
    found = {user: store.get(user) for user in users}
    return {user: record.cart.items[0].quantity for user, record in found.items() if record and record.cart}


def users_of(number: int, *, primaries: int = 3) -> list[str]:
    """Those whose carts are on this primary, as long as nothing has moved."""
    first, end = (16384 * each // primaries for each in (number, number + 1))
    return [user for user in USERS if first <= slot_of(user) < end]


def slot_of(user: str) -> int:
    """Where the cart of this user is."""
    return int(key_slot(f"cart:{user}".encode()))


def id_of(node: Valkey) -> str:
    """How the others call it."""
    return asked(node, "CLUSTER", "MYID").decode()


def asked(node: Valkey, *command: Any) -> Any:
    """What it answers."""
    with node.client() as client:
        return client.execute_command(*command)


# ---- slots that move ----


def move_key_by_key(slot: int, source: Valkey, target: Valkey, meanwhile: Callable[[], None]) -> None:
    """Between begin and end the source says ASK for keys that it has no more, and the target takes no one else."""
    asked(target, "CLUSTER", "SETSLOT", slot, "IMPORTING", id_of(source))
    asked(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", id_of(target))
    while keys := asked(source, "CLUSTER", "GETKEYSINSLOT", slot, 1):
        asked(source, "MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys)
    meanwhile()
    for node in (target, source):
        asked(node, "CLUSTER", "SETSLOT", slot, "NODE", id_of(target))


def move_at_once(slot: int, source: Valkey, target: Valkey, _: Callable[[], None]) -> None:
    """The servers move the slot by themselves (from Valkey 9 on)."""
    asked(source, "CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE", id_of(target))
    source.wait_until(
        lambda client: all(
            b"success" in migration for migration in client.execute_command("CLUSTER", "GETSLOTMIGRATIONS")
        )
    )


@contextmanager
def joined(nodes: list[Valkey]) -> Iterator[Valkey]:
    """One more node, which has no slots yet."""
    options = ("--cluster-enabled", "yes", "--cluster-node-timeout", "1000", "--cluster-allow-replica-migration", "no")
    with valkey(*options) as node:
        asked(node, "CLUSTER", "MEET", "127.0.0.1", nodes[0].port)
        everybody = [*nodes, node]
        ids = [id_of(each).encode() for each in everybody]
        for each in everybody:
            each.wait_until(lambda client: all(one in client.execute_command("CLUSTER", "NODES") for one in ids))
            each.wait_until(lambda client: b"cluster_state:ok" in client.execute_command("CLUSTER", "INFO"))
        yield node


def documented_user() -> list[str]:
    """The command in docs/stores.md that makes a user with the rights that the store needs; a bar is escaped there."""
    page = (Path(__file__).parents[2] / "docs" / "stores.md").read_text()
    (line,) = re.findall(r"`(ACL SETUSER carts on .+?)`", page)
    return [word.replace("\\|", "|") for word in line.split(" ")]


def test_nobody_notices_when_slots_move(clock: FakeClock) -> None:
    """Slots go round under load, over a node too that nobody knew: no call fails, and every total is exact.

    A command of ours has one key, so that no node ever answers TRYAGAIN. Each command of the documented user is let
    through, in the middle of a move too.
    """
    with ExitStack() as stack:
        nodes = stack.enter_context(cluster())
        for node in nodes:
            asked(node, *documented_user())
        store, other, onlooker = (stack.enter_context(opened(nodes, clock, before="carts:password@")) for _ in range(3))
        assert list(onlooker.scan()) == []
        newcomer = stack.enter_context(joined(nodes))
        asked(newcomer, *documented_user())
        places = [*nodes, newcomer]
        users = [users_of(number)[0] for number in range(3)]
        at = {user: number for number, user in enumerate(users)}
        load = Load([store, other], clock, users)

        def work() -> None:
            load.wait_for_each()
            assert [store.get(user) is not None for user in users] == [True] * 3
            assert {user for user, _ in store.scan()} <= {*users}
            store.ping()
            store.delete("nobody")

        with load.running():
            load.wait_for_each()
            for move, step in itertools.product((move_key_by_key, move_at_once), (1, 2, 3)):
                for user in users:
                    source, at[user] = at[user], (at[user] + step) % 4
                    move(slot_of(user), places[source], places[at[user]], work)
                work()
            for user in users:
                if at[user] != 3:
                    move_key_by_key(slot_of(user), places[at[user]], newcomer, work)
            work()
        assert load.refused == []
        assert quantities(store, users) == load.acknowledged()
        assert {user for user, _ in onlooker.scan()} == set(users)
        store.startup_warnings()
        said: Counter[str] = Counter()
        for node in places:
            assert asked(node, "ACL", "LOG") == []
            with node.client() as client:
                said.update({name: each["count"] for name, each in client.info("errorstats").items()})
        assert said["errorstat_MOVED"] > 0
        assert said["errorstat_ASK"] > 0


# ---- nodes that fail ----


@pytest.mark.parametrize(("pair", "lags"), [(0, False), (1, True)], ids=["replica in step", "replica behind"])
def test_a_replica_takes_over_from_a_killed_primary(
    pairs: list[Valkey], clock: FakeClock, capsys: pytest.CaptureFixture[str], *, pair: int, lags: bool
) -> None:
    """Under load: what fails meanwhile is a StoreError, all carts come back by themselves, and then all is exact again.

    How many acknowledged adds went with the primary is reported; that there are none is not promised.
    """
    primary, replica = pairs[pair], pairs[4 + pair]
    on_it = users_of(pair, primaries=4)
    with opened(pairs[:4], clock, timeout=2) as store, opened(pairs[:4], clock, timeout=2) as other:
        for user in USERS:
            store.delete(user)
        load = Load([store, other], clock, USERS)
        with load.running():
            load.wait_for_each()
            if lags:
                replica.pause()
                asked(primary, "CLIENT", "KILL", "TYPE", "replica")  # or what was sent waits for it in a buffer
                load.wait_for_each()
            primary.kill()
            killed_at = time.monotonic()
            replica.resume()
            replica.wait_until(lambda client: client.info("replication")["role"] == "master")
            promoted_at = time.monotonic()
            load.wait_for_each()
            recovered_at = time.monotonic()
        kept = quantities(store, USERS)
        acknowledged = load.acknowledged()
        assert all(kept[user] <= acknowledged[user] + load.unknown()[user] for user in USERS)
        lost = {user: acknowledged[user] - kept[user] for user in USERS if kept[user] < acknowledged[user]}
        assert lost.keys() <= set(on_it), "carts of other primaries lose nothing"
        assert not lags or sum(lost.values()) >= len(on_it), "this test can count"
        with capsys.disabled():
            print(  # noqa: T201 - a report is what it is for
                f"\nfailover to a replica {'behind' if lags else 'in step'}: {promoted_at - killed_at:.1f} s until it "
                f"took over, {recovered_at - promoted_at:.2f} s more until every cart took another add; "
                f"{sum(lost.values())} of {acknowledged.total()} acknowledged adds lost"
            )
        again = Load([store, other], clock, USERS)
        with again.running():
            again.wait_for_each()
        assert again.refused == []
        assert quantities(store, USERS) == dict(Counter(kept) + again.acknowledged())


def test_a_write_that_was_lost_with_its_primary_is_not_repeated(pairs: list[Valkey], clock: FakeClock) -> None:
    """A primary stands still with a write unanswered: its outcome is unknown, nobody sends it again, the others go on.

    A host that is cut off looks like that. Its replica takes over, and a late primary changes nothing any more.
    """
    primary, replica = pairs[2], pairs[6]
    user, elsewhere = users_of(2, primaries=4)[0], users_of(3, primaries=4)[0]
    seen: list[Record | None] = []

    def pausing(record: Record | None) -> tuple[Record | None, int]:
        seen.append(record)
        primary.pause()
        return adding(clock)(record)

    with opened(pairs[:4], clock, timeout=3) as store:
        store.delete(user)
        assert store.update(user, adding(clock)) == 1
        assert asked(primary, "WAIT", 1, 5000) == 1
        try:
            with pytest.raises(OutcomeUnknown):
                store.update(user, pausing)
            replica.wait_until(lambda client: client.info("replication")["role"] == "master")
            put(store, elsewhere, a_record(clock))
            assert eventually(lambda: quantities(store, [user])) == {user: 1}
            assert store.update(user, adding(clock)) == 2
        finally:
            primary.resume()
        primary.wait_until(lambda client: client.info("replication")["role"] == "slave")
        primary.wait_until(lambda client: client.info("replication")["master_link_status"] == "up")
        assert len(seen) == 1
        assert store.update(user, adding(clock)) == 3
        with opened([primary], clock) as late:
            assert late.update(user, adding(clock)) == 4


def test_a_write_that_never_left_is_known_not_to_have_happened(nodes: list[Valkey], clock: FakeClock) -> None:
    """A node that is gone before the write is sent leaves no doubt: a StoreError, and nothing was changed."""
    user = users_of(1)[0]

    def killing(record: Record | None) -> tuple[Record | None, int]:
        nodes[1].kill()
        return adding(clock)(record)

    with opened(nodes, clock, timeout=2) as store, healed(nodes, killed=nodes[1:2]):
        store.ping()
        with pytest.raises(StoreError) as caught:
            store.update(user, killing)
        assert type(caught.value) is StoreError


def test_a_primary_can_be_told_to_refuse_what_no_replica_would_have(pairs: list[Valkey], clock: FakeClock) -> None:
    """With min-replicas-to-write it accepts no write once its replica is away: a StoreError, nothing is changed."""
    primary, replica, user = pairs[3], pairs[7], users_of(3, primaries=4)[0]
    asked(primary, "CONFIG", "SET", "min-replicas-to-write", 1, "min-replicas-max-lag", 1)
    with opened(pairs[:4], clock, timeout=2) as store:
        kept = put(store, user, a_record(clock))
        replica.kill()
        deadline = time.monotonic() + SECONDS
        refused: StoreError | None = None
        while refused is None:
            assert time.monotonic() < deadline
            try:
                kept = put(store, user, a_record(clock))
            except StoreError as error:
                refused = error
        assert type(refused) is StoreError
        assert "NOREPLICAS" in str(refused.__cause__)
        assert store.get(user) == kept


# ---- the first contact, and the last one ----


@contextmanager
def healed(nodes: list[Valkey], *, killed: list[Valkey]) -> Iterator[None]:
    """At its end those that were killed are started, those that were paused go on, and all are a cluster again."""
    try:
        yield
    finally:
        for node in nodes:
            node.kill() if node in killed else node.resume()
        for node in killed:
            node.start()
        for node in nodes:
            node.wait_until(lambda client: b"cluster_state:ok" in client.execute_command("CLUSTER", "INFO"))


@pytest.mark.parametrize("known", [False, True], ids=["unknown", "known"])
@pytest.mark.parametrize("how", ["kill", "pause"])
def test_a_cluster_that_is_away_keeps_nobody_waiting(
    nodes: list[Valkey], clock: FakeClock, *, how: str, known: bool
) -> None:
    """All nodes are down, or stand still, from the beginning or all at once.

    Each of many threads has its StoreError in time, none waits for the others; later the same store works again.
    """
    took = [0.0] * THREADS
    with opened(nodes, clock, timeout=0.5) as store:
        if known:
            for user in USERS:
                put(store, user, a_record(clock))
        with healed(nodes, killed=nodes if how == "kill" else []):
            for node in nodes:
                getattr(node, how)()

            def work(number: int) -> None:
                for turn in range(2):
                    began = time.monotonic()
                    with pytest.raises(StoreError):
                        store.update(USERS[number + turn], adding(clock))
                    took[number] = max(took[number], time.monotonic() - began)

            at_once(THREADS, work)
        assert max(took) < 2  # one after the other they would have waited for eight times half a second
        for user in USERS:
            eventually(lambda user=user: put(store, user, a_record(clock)))
        store.ping()


def test_who_asks_the_cluster_keeps_nobody_waiting_for_long(clock: FakeClock) -> None:
    """One thread may ask for as long as its request may; others, who wait for what it learns, have deadlines too."""
    with socket.create_server(("127.0.0.1", 0)) as silent, ThreadPoolExecutor(1) as pool:

        def ask_for_long() -> None:
            current_operation.set(Operation(time.monotonic() + SECONDS))
            with pytest.raises(StoreError):
                store.get("u")

        with opened([], clock, timeout=0.2, before=f"127.0.0.1:{silent.getsockname()[1]}") as store:
            asking = pool.submit(ask_for_long)
            connection = silent.accept()[0]
            with connection:  # closing it would end the first request too
                with pytest.raises(StoreError):
                    store.get("u")
                still_asking = not asking.done()
        asking.result()
    assert still_asking


def test_a_host_that_is_dead_or_silent_does_no_harm(nodes: list[Valkey], clock: FakeClock) -> None:
    """Of the hosts in the URL one that answers is enough, in whatever order they are asked."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        hosts = f"127.0.0.1:{free_port()},127.0.0.1:{silent.getsockname()[1]},"
        silent.settimeout(0)
        met = False
        while not met:
            with opened(nodes[:1], clock, timeout=2, before=hosts) as store:
                record = put(store, "u", a_record(clock))
                assert store.get("u") == record
            with suppress(BlockingIOError):  # it was not asked this time
                silent.accept()[0].close()
                met = True


# ---- the rest ----


def test_erase_and_purge_and_ping(nodes: list[Valkey], clock: FakeClock) -> None:
    """They work on whatever node; what cannot be decoded is erased too, and listed by a scan."""
    with opened(nodes, clock) as store:
        for number in range(3):
            user = users_of(number)[0]
            asked(nodes[number], "SET", f"cart:{user}", "damaged")
            assert {type(record).__name__ for name, record in store.scan() if name == user} == {"RecordUnreadable"}
            store.delete(user)
            assert user not in dict(store.scan())
        assert store.purge_expired() == 0
        store.ping()


def test_advice_is_about_all_primaries(nodes: list[Valkey], clock: FakeClock) -> None:
    """One of them that evicts, or keeps nothing on disk, is reason enough."""
    with opened(nodes, clock) as store:
        (disk,) = store.startup_warnings()
        assert "append-only" in disk
        for node in nodes[:2]:
            asked(node, "CONFIG", "SET", "appendonly", "yes")
        assert store.startup_warnings() == [disk]
        asked(nodes[2], "CONFIG", "SET", "appendonly", "yes")
        assert store.startup_warnings() == []
        asked(nodes[1], "CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
        (memory,) = store.startup_warnings()
        assert "noeviction" in memory
        asked(nodes[1], "CONFIG", "SET", "maxmemory-policy", "noeviction")
        for node in nodes:
            asked(node, "CONFIG", "SET", "appendonly", "no")


def test_a_cluster_may_have_one_node_and_a_password(clock: FakeClock) -> None:
    """Every connection logs in; without the password, or with a wrong one, the store is away."""
    with cluster(primaries=1) as (node,):
        asked(node, "CONFIG", "SET", "requirepass", "p@ss:word")
        for wrong in ("", ":wrong@"):
            with opened([node], clock, before=wrong) as store, pytest.raises(StoreError):
                store.get("u")
        with opened([node], clock, before=":p%40ss%3Aword@") as store:
            record = put(store, "u", a_record(clock))
            assert dict(store.scan()) == {"u": record}
            assert len(store.startup_warnings()) == 1
