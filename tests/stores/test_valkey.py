"""The Valkey store on one real server: the contract, round trips, deadlines, lost answers, a server that is hurt."""

# ruff: noqa: SLF001 - a command is stopped on its way, and a name made to lead elsewhere

from __future__ import annotations

import logging
import shutil
import ssl
import threading
import time
from contextlib import ExitStack, contextmanager
from contextvars import Context
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from redis.exceptions import RedisError

from cartsvc.carts.cart import NewItem
from cartsvc.carts.conditions import WriteConditions
from cartsvc.carts.record import MergeMark, Record
from cartsvc.errors import OutcomeUnknown, StoreError, StoreFull, StoreUnusable
from cartsvc.stores import open_store
from cartsvc.stores import valkey as module
from cartsvc.stores.urls import ValkeyConfig, parse_store_url
from cartsvc.stores.valkey import ValkeyStore
from tests.support.clock import FakeClock
from tests.support.proxy import Fate, proxy
from tests.support.services import make_service
from tests.support.store_contract import DAY, StoreContract, a_record, adding, at_once, put, putting, remove
from tests.support.valkey_child import Child
from tests.support.valkeys import eventually, valkey

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from redis import Redis

    from cartsvc.carts.store import CartStore
    from tests.support.proxy import Proxy
    from tests.support.valkeys import Valkey

AMPLE = 10  # seconds, where none are to be waited
TIME = 0.5  # seconds a request has
MARGIN = 0.4  # seconds that a busy machine may take besides; less than another TIME
SECONDS = 20  # until what must come has come
THREADS = 8
WRITE = "EVALSHA"


def real_now() -> int:
    """Where a fake clock begins: the server clears away by its own."""
    return time.time_ns() // 1_000_000


@pytest.fixture(scope="module")
def server() -> Iterator[Valkey]:
    """One that no test hurts for good."""
    with valkey() as running:
        yield running


@pytest.fixture
def admin(server: Valkey) -> Iterator[Redis]:
    """A client of the test's own. The server forgets all records and scripts, and how often what was called."""
    with server.client() as client:
        client.flushall()
        client.script_flush()
        client.config_resetstat()
        yield client


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(real_now())


@contextmanager
def opened(url: str, clock: Callable[[], int] = real_now, *, timeout: float = AMPLE) -> Iterator[ValkeyStore]:
    """A store there."""
    config = parse_store_url(url)
    assert isinstance(config, ValkeyConfig)
    store = ValkeyStore(config, clock=clock, timeout=timeout)
    try:
        yield store
    finally:
        store.close()


@pytest.fixture
def store(server: Valkey, admin: Redis, clock: FakeClock) -> Iterator[ValkeyStore]:  # noqa: ARG001 - it empties
    with opened(server.url, clock) as store:
        yield store


@pytest.fixture
def between(server: Valkey, admin: Redis) -> Iterator[Proxy]:  # noqa: ARG001 - it empties
    """A proxy before the server."""
    with proxy(server.port) as running:
        yield running


def url_of(between: Proxy) -> str:
    return f"valkey://127.0.0.1:{between.port}"


def quantity(store: CartStore, user_id: str = "u") -> int:
    """What the one item of this cart counts to; 0 without a cart."""
    record = store.get(user_id)
    return record.cart.items[0].quantity if record is not None and record.cart is not None else 0


def kind_of(call: Callable[[], object]) -> type[Exception] | None:
    """What it raises of our errors."""
    try:
        call()
    except StoreError as error:
        return type(error)
    return None


class TestValkeyStore(StoreContract):
    """The contract, held by the Valkey store."""

    THREADS = THREADS
    ADDS = 24
    PART = 4

    @pytest.fixture
    def clock(self, clock: FakeClock) -> FakeClock:
        """The clock the store is opened with."""
        return clock

    @pytest.fixture
    def store(self, store: ValkeyStore) -> ValkeyStore:
        """The store under test."""
        return store


def test_the_url_opens_it(server: Valkey) -> None:
    """Whatever the scheme is called."""
    for scheme in ("valkey", "redis"):
        config = parse_store_url(f"{scheme}://127.0.0.1:{server.port}/3")
        store = open_store(config, clock=real_now, memory_limit=0, max_readers=0, timeout=AMPLE)
        assert isinstance(store, ValkeyStore)
        put(store, scheme, a_record(real_now))
        store.close()
        with server.client(db=3) as client:
            assert client.exists(f"cart:{scheme}") == 1


# ---- what it costs ----


def test_a_get_is_one_round_trip(between: Proxy) -> None:
    """Whether there is a record or not; a connection that is made for it asks nothing first."""
    with opened(url_of(between)) as store:
        store.get("u")
        assert between.names() == ["GET"]
        put(store, "u", a_record(real_now))
        between.names()
        store.get("u")
        assert between.names() == ["GET"]


def test_an_update_is_two_round_trips(between: Proxy) -> None:
    """One when nothing is to be written."""
    with opened(url_of(between)) as store:
        know_the_scripts(store)
        between.names()
        put(store, "u", a_record(real_now))
        assert between.names() == ["GET", WRITE]
        store.update("u", adding(real_now))
        assert between.names() == ["GET", WRITE]
        store.update("u", lambda record: (record, None))
        assert between.names() == ["GET"]
        remove(store, "u")
        assert between.names() == ["GET", WRITE]
        remove(store, "u")
        assert between.names() == ["GET"]
        store.ping()
        assert between.names() == [WRITE]
        assert between.connections == 1


def test_a_lost_compare_is_one_round_trip_more(between: Proxy, server: Valkey) -> None:
    """The script hands out what is there instead; the change is made anew on that, also when it is gone by now."""
    with opened(url_of(between)) as store, opened(server.url) as other:
        rivals = [lambda: other.update("u", adding(real_now)), lambda: remove(other, "u"), lambda: None]

        def change(record: Record | None) -> tuple[Record, int]:
            rivals.pop(0)()
            written: tuple[Record, int] = adding(real_now)(record)
            return written

        know_the_scripts(store)
        between.names()
        assert store.update("u", change) == 1
        assert between.names() == ["GET", WRITE, WRITE, WRITE]
        assert quantity(other) == 1


def test_threads_of_one_process_lose_no_compare(store: ValkeyStore, admin: Redis) -> None:
    """They take turns: on one cart there are as many compares as adds."""
    store.ping()
    admin.config_resetstat()

    def work(_: int) -> None:
        for _ in range(20):
            store.update("u", adding(real_now, spins=2000))

    at_once(THREADS, work)
    assert admin.info("commandstats")["cmdstat_evalsha"]["calls"] == THREADS * 20
    assert quantity(store) == THREADS * 20


# ---- several at once ----


def test_no_add_of_several_stores_is_lost(server: Valkey, admin: Redis) -> None:
    """Stores that know nothing of each other do lose compares, and no add."""
    with ExitStack() as stack:
        stores = [stack.enter_context(opened(server.url)) for _ in range(4)]
        stores[0].ping()
        admin.config_resetstat()

        def work(number: int) -> None:
            for _ in range(20):
                stores[number % 4].update("u", adding(real_now, spins=2000))

        at_once(THREADS, work)
        assert quantity(stores[0]) == THREADS * 20
    assert admin.info("commandstats")["cmdstat_evalsha"]["calls"] > THREADS * 20, "nothing was raced"


@pytest.mark.parametrize("carts", [1, 5])
def test_no_add_of_several_processes_is_lost(server: Valkey, store: ValkeyStore, carts: int) -> None:
    """Threads and gevent's greenlets, started at once: exact totals."""
    with (
        Child(server.url, workers=4, adds=25, carts=carts) as one,
        Child(server.url, greenlets=True, workers=50, adds=4, carts=carts) as other,
    ):
        for child in (one, other):
            child.wait()
        for child in (one, other):
            child.begin()
        added = [child.told() for child in (one, other)]
    assert [each["added"] for each in added] == [100, 200]
    assert sum(quantity(store, f"u{n}") for n in range(carts)) == 300


def test_whoever_always_loses_gives_up_in_time(server: Valkey, admin: Redis) -> None:
    """Somebody else is always faster: tried again with pauses until the time is over, and nothing is changed."""
    tries = count(1)
    told = []
    with opened(server.url, timeout=TIME) as store, opened(server.url) as other:

        def change(record: Record | None) -> tuple[Record, int]:
            Context().run(other.update, "u", adding(real_now))  # another request, with time of its own
            next(tries)
            written: tuple[Record, int] = adding(real_now)(record)
            return written

        for _ in range(4):
            began = time.monotonic()
            with pytest.raises(StoreError) as caught:
                store.update("u", change)
            assert time.monotonic() - began < TIME + MARGIN
            told.append(type(caught.value))
        tried = next(tries) - 1
        assert quantity(other) == tried
        assert 4 * 5 < tried < 4 * 100, "too few for these pauses, or too many"
    # Now and then the time is over when the last compare is sent and not answered: that it lost is not known then.
    assert {StoreError} <= {*told} <= {StoreError, OutcomeUnknown}
    assert admin.dbsize() == 1


# ---- the script ----


def test_a_server_that_forgot_the_scripts_is_given_them_again(between: Proxy, admin: Redis) -> None:
    """By hash first; the text of each once."""
    with opened(url_of(between)) as store:
        for _ in range(2):
            admin.script_flush()
            for user_id in "ab":
                put(store, user_id, a_record(real_now))
                remove(store, user_id)
            again, known = ["GET", WRITE, "EVAL"], ["GET", WRITE]
            assert between.names() == [*again, *again, *known, *known]


def test_a_write_that_is_given_with_the_script_is_not_repeated_either(between: Proxy) -> None:
    """An answer that is lost there is as lost as any."""
    between.once("EVAL", Fate.CUT_AFTER)
    with opened(url_of(between)) as store:
        with pytest.raises(OutcomeUnknown):
            store.update("u", adding(real_now))
        assert between.names() == ["GET", WRITE, "EVAL"]
        assert quantity(store) == 1


# ---- one deadline ----

CALLS: dict[str, Callable[[CartStore, str], object]] = {
    "get": lambda store, user_id: store.get(user_id),
    "update": lambda store, user_id: store.update(user_id, adding(real_now)),
    "ping": lambda store, _: store.ping(),
    "erase": lambda store, user_id: store.delete(user_id),
    "scan": lambda store, _: list(store.scan()),
}


def know_the_scripts(store: CartStore) -> None:
    """Let the server see both: of a larger cart, and of one that is not."""
    for _ in range(2):
        store.update("script", adding(real_now))


@contextmanager
def paused(server: Valkey) -> Iterator[None]:
    server.pause()
    try:
        yield
    finally:
        server.resume()


def all_fail_in_time(call: Callable[[int], object]) -> list[type[Exception] | None]:
    """Call it in eight threads at once. What each of them raised, in time."""
    raised: list[type[Exception] | None] = [None] * THREADS
    took = [0.0] * THREADS

    def work(number: int) -> None:
        began = time.monotonic()
        raised[number] = kind_of(lambda: call(number))
        took[number] = time.monotonic() - began

    at_once(THREADS, work)
    assert max(took) < TIME + MARGIN
    return raised


@pytest.mark.usefixtures("admin")
@pytest.mark.parametrize("warm", [True, False], ids=["connected", "anew"])
@pytest.mark.parametrize("carts", [1, THREADS])
def test_eight_threads_behind_a_paused_server_all_come_back(server: Valkey, carts: int, *, warm: bool) -> None:
    """Within the time of one request, whether they wait for their turn, a connection, or the server."""
    with opened(server.url, timeout=TIME) as store:
        if warm:
            at_once(THREADS, lambda number: store.update(f"u{number}", adding(real_now)))
        with paused(server):
            assert all_fail_in_time(lambda n: store.update(f"u{n % carts}", adding(real_now))) == [StoreError] * THREADS
        assert eventually(lambda: store.update("u", adding(real_now))) == 1
        assert quantity(store, "u0") == int(warm), "what never was sent is not done later"


@pytest.mark.usefixtures("admin")
def test_a_turn_is_waited_for_as_long_as_the_request_may(server: Valkey) -> None:
    """Whoever has it may have come later, and may have more time."""
    inside, over = threading.Event(), threading.Event()

    def hold(record: Record | None) -> tuple[Record | None, None]:
        inside.set()
        assert over.wait(SECONDS)
        return record, None

    with opened(server.url, timeout=TIME) as store:
        holder = threading.Thread(target=store.update, args=("u", hold))
        holder.start()
        try:
            assert inside.wait(SECONDS)
            began = time.monotonic()
            assert kind_of(lambda: store.update("u", adding(real_now))) is StoreError
            assert time.monotonic() - began < TIME + MARGIN
            assert store.get("u") is None
        finally:
            over.set()
            holder.join()
        assert store.update("u", adding(real_now)) == 1


@pytest.mark.usefixtures("admin")
@pytest.mark.parametrize("name", CALLS)
def test_every_call_behind_a_paused_server_comes_back(server: Valkey, name: str) -> None:
    """Also from a pool that is exhausted."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "POOL_SIZE", 2)
        with opened(server.url, timeout=TIME) as store:
            store.ping()
            with paused(server):
                raised = all_fail_in_time(lambda number: CALLS[name](store, f"u{number}"))
            assert set(raised) <= {StoreError} | ({OutcomeUnknown} if name == "erase" else set())
            eventually(store.ping)


@pytest.mark.parametrize("name", CALLS)
def test_a_server_that_dribbles_gets_no_more_time(between: Proxy, server: Valkey, name: str) -> None:
    """Each byte in time, the answer not."""
    with opened(server.url) as other:
        put(other, "u", a_record(real_now, note="x" * 100))
        other.update("u", adding(real_now))
    between.fate = lambda _: Fate.DRIBBLE
    with opened(url_of(between), timeout=0.15) as store:
        began = time.monotonic()
        assert kind_of(lambda: CALLS[name](store, "u")) in {StoreError, OutcomeUnknown}
        assert time.monotonic() - began < 0.15 + MARGIN


def test_the_calls_of_one_request_share_its_time(between: Proxy) -> None:
    """A merge is many calls: each of them would be in time, all of them are not."""
    with opened(url_of(between), timeout=TIME) as store:
        service = make_service(store, real_now)
        for user_id in ("guest-1", "alice"):
            service.add(user_id, [NewItem("p", 1)], conditions=WriteConditions())
        between.names()
        between.fate = lambda _: Fate.SLOW
        store.get("alice")
        began = time.monotonic()
        with pytest.raises(StoreError):
            service.merge("alice", "guest-1", "sum", conditions=WriteConditions(b"key", b"request"))
        assert time.monotonic() - began < TIME + MARGIN
        between.fate = lambda _: Fate.PASS
        between.names()
        merged = eventually(
            lambda: service.merge("alice", "guest-1", "sum", conditions=WriteConditions(b"key", b"request"))
        )
        assert merged.cart.items[0].quantity == 2
        assert service.get("guest-1") is None


def test_gevents_greenlets_behind_a_paused_server_all_come_back(server: Valkey, store: ValkeyStore) -> None:
    """As gunicorn serves it: fifty in one thread, some of them on the same cart."""
    with Child(server.url, greenlets=True, workers=50, adds=1, carts=10, timeout=TIME) as child:
        child.wait()
        with paused(server):
            child.begin()
            told = child.told()
    assert told.pop("slowest") < TIME + MARGIN
    assert told == {"StoreError": 50}
    assert list(store.scan()) == []


# ---- lost answers ----

LOST = pytest.mark.parametrize(
    ("fate", "done"),
    [(Fate.CUT_BEFORE, False), (Fate.CUT_AFTER, True), (Fate.SILENT, True)],
    ids=str,
)


@LOST
def test_a_write_without_an_answer_is_unknown_and_sent_once(between: Proxy, fate: Fate, *, done: bool) -> None:
    """It is there or not; nobody sends it again, and the store goes on."""
    with opened(url_of(between), timeout=TIME) as store:
        store.ping()
        between.names()
        between.once(WRITE, fate)
        with pytest.raises(OutcomeUnknown):
            store.update("u", adding(real_now))
        assert between.names() == ["GET", WRITE]
        assert quantity(store) == int(done)
        assert store.update("u", adding(real_now)) == int(done) + 1


@LOST
def test_a_read_without_an_answer_has_done_nothing(between: Proxy, fate: Fate, *, done: bool) -> None:  # noqa: ARG001
    """There is no doubt about what was never sent."""
    with opened(url_of(between), timeout=TIME) as store:
        store.ping()
        between.names()
        for call in (store.get, lambda user_id: store.update(user_id, adding(real_now))):
            between.once("GET", fate)
            assert kind_of(lambda: call("u")) is StoreError  # noqa: B023 - called at once
            assert between.names() == ["GET"]
        assert quantity(store) == 0


@LOST
def test_a_ping_leaves_no_doubt(between: Proxy, fate: Fate, *, done: bool) -> None:  # noqa: ARG001
    """It has nothing to do that could be done or not."""
    with opened(url_of(between), timeout=TIME) as store:
        store.ping()
        between.once(WRITE, fate)
        assert kind_of(store.ping) is StoreError
        store.ping()


@LOST
def test_a_keyed_repetition_is_exact(between: Proxy, fate: Fate, *, done: bool) -> None:
    """Whatever became of the first write, there is one add; and it is told whether it was done before."""
    conditions = WriteConditions(b"key", b"request")
    with opened(url_of(between), timeout=TIME) as store:
        store.ping()
        service = make_service(store, real_now)
        between.once(WRITE, fate)
        with pytest.raises(OutcomeUnknown):
            service.add("u", [NewItem("p", 1)], conditions=conditions)
        repeated = service.add("u", [NewItem("p", 1)], conditions=conditions)
        assert repeated.replayed is done
        assert quantity(store) == 1
        service.add("u", [NewItem("p", 1)], conditions=WriteConditions(b"another", b"request"))
        assert quantity(store) == 2


def test_keyed_adds_are_exact_while_answers_are_lost_all_the_time(between: Proxy, server: Valkey) -> None:
    """Every third command of eight clients comes to grief; each is repeated until it has its answer: exact totals."""
    turns = count()
    fates = [Fate.CUT_BEFORE, Fate.CUT_AFTER]
    unknown = count()

    def fate(_: list[bytes]) -> Fate:
        turn = next(turns)
        return fates[turn // 3 % 2] if turn % 3 == 0 else Fate.PASS

    with opened(url_of(between)) as one, opened(url_of(between)) as two, opened(server.url) as judge:
        services = [make_service(each, real_now) for each in (one, two)]

        def work(number: int) -> None:
            for turn in range(6):
                conditions = WriteConditions(f"{number}-{turn}".encode(), b"request")
                while True:
                    try:
                        services[number % 2].add(f"u{turn % 2}", [NewItem("p", 1)], conditions=conditions)
                    except StoreError as error:
                        if isinstance(error, OutcomeUnknown):
                            next(unknown)
                    else:
                        break

        between.fate = fate
        at_once(THREADS, work)
        assert next(unknown) > 0
        assert quantity(judge, "u0") + quantity(judge, "u1") == THREADS * 6


@pytest.mark.usefixtures("admin")
def test_a_write_to_a_server_that_stands_still_is_unknown(server: Valkey) -> None:
    """It may be done once the server goes on; with its key there is one all the same."""
    conditions = WriteConditions(b"key", b"request")
    with opened(server.url, timeout=TIME) as store:
        service = make_service(store, real_now)
        send, sent = store._client.execute_command, []

        def pausing(*command: Any, **options: Any) -> Any:
            if command[0] == WRITE and not sent:
                sent.append(command)
                server.pause()
            return send(*command, **options)

        store.ping()
        try:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(store._client, "execute_command", pausing)
                with pytest.raises(OutcomeUnknown):
                    service.add("u", [NewItem("p", 1)], conditions=conditions)
        finally:
            server.resume()
        eventually(lambda: service.add("u", [NewItem("p", 1)], conditions=conditions))
        assert quantity(store) == 1


# ---- a server that cannot ----


@contextmanager
def configured(client: Redis, **values: object) -> Iterator[None]:
    """The server has these settings until the block ends."""
    names = {name.replace("_", "-"): value for name, value in values.items()}
    before = {name: client.config_get(name)[name] for name in names}
    try:
        for name, value in names.items():
            client.config_set(name, value)
        yield
    finally:
        for name, value in before.items():
            client.config_set(name, value)


@contextmanager
def replica(client: Redis) -> Iterator[None]:
    """The server is a replica, of one that is away."""
    client.execute_command("REPLICAOF", "127.0.0.1", 1)
    try:
        yield
    finally:
        client.execute_command("REPLICAOF", "NO", "ONE")


@contextmanager
def cut_off_replica(client: Redis) -> Iterator[None]:
    """... and it answers nothing while it is so."""
    with configured(client, replica_serve_stale_data="no"), replica(client):
        yield


@contextmanager
def crowded(client: Redis) -> Iterator[None]:
    """No more clients are let in."""
    for each in client.client_list():
        if each["id"] != str(client.client_id()):
            client.client_kill_filter(_id=each["id"])
    with configured(client, maxclients=1):
        yield


@contextmanager
def busy(client: Redis) -> Iterator[None]:
    """A script of somebody else's does not end."""
    port = client.connection_pool.connection_kwargs["port"]
    other = type(client)(port=port, protocol=2, retry=None)

    def run() -> None:
        with pytest.raises(RedisError):
            other.eval("while true do end", 0)

    with configured(client, busy_reply_threshold=1):
        thread = threading.Thread(target=run)
        thread.start()
        deadline = time.monotonic() + SECONDS
        while True:
            try:
                client.ping()
            except RedisError:
                break
            assert time.monotonic() < deadline
        try:
            yield
        finally:
            client.script_kill()
            thread.join()
            other.close()


@contextmanager
def no_replicas(client: Redis) -> Iterator[None]:
    """It wants replicas that are not there."""
    with configured(client, min_replicas_to_write=1):
        yield


# What goes wrong, what is to be read of it in the error's cause, and whether records can still be read.
STATES: dict[str, tuple[Callable[[Redis], Any], str, bool]] = {
    "replica": (replica, "replica", True),
    "cut off": (cut_off_replica, "replica", False),
    "crowded": (crowded, "max number of clients", False),
    "busy": (busy, "BUSY", False),
    "no replicas": (no_replicas, "NOREPLICAS", True),
}


@pytest.mark.parametrize(("state", "says", "readable"), STATES.values(), ids=STATES)
def test_a_server_that_cannot_is_away(
    server: Valkey, admin: Redis, state: Callable[[Redis], Any], says: str, *, readable: bool
) -> None:
    """A StoreError, nothing done, readiness says so; all is as before when the server is, with the same store."""
    with opened(server.url, timeout=AMPLE) as store:
        before = put(store, "u", a_record(real_now))
        with state(admin):
            for call in (store.ping, lambda: store.update("u", adding(real_now)), lambda: remove(store, "u")):
                with pytest.raises(StoreError) as caught:
                    call()
                assert type(caught.value) is StoreError
                assert caught.match("Nothing was changed")
                assert isinstance(caught.value.__cause__, RedisError)
                assert says in repr(caught.value.__cause__.args)
            if readable:
                assert store.get("u") == before
            else:
                assert kind_of(lambda: store.get("u")) is StoreError
        assert store.get("u") == before
        store.ping()
        store.update("u", adding(real_now))


def test_a_server_that_is_loading_is_away() -> None:
    """Until it has loaded; what it had is there then, and the same store goes on."""
    slowly = ("--key-load-delay", "20000", "--loading-process-events-interval-bytes", "1024", "--rdbcompression", "no")
    with valkey(*slowly) as server, opened(server.url) as store:
        for number in range(60):
            put(store, f"u{number}", a_record(real_now, note="x" * 2000))
        with server.client() as client:
            client.save()
        server.kill()
        server.start(until=lambda client: client.info("persistence")["loading"])
        for name in ("ping", "get", "update", "erase"):
            assert kind_of(lambda: CALLS[name](store, "u1")) is StoreError  # noqa: B023 - called at once
        assert "maxmemory" not in "".join(store.startup_warnings()), "it can be asked all the same"
        eventually(store.ping)
        assert store.update("u1", adding(real_now)) == 1
        assert len(list(store.scan())) == 60


def test_a_server_that_cannot_save_is_away(tmp_path: Path) -> None:
    """As long as it refuses writes because its snapshots fail."""
    home = tmp_path / "home"
    home.mkdir()
    with valkey("--dir", str(home)) as server, opened(server.url) as store, server.client() as client:
        before = put(store, "u", a_record(real_now))
        client.config_set("save", "3600 100000")
        shutil.rmtree(home)
        client.bgsave()
        server.wait_until(lambda client: client.info("persistence")["rdb_last_bgsave_status"] == "err")
        assert [kind_of(store.ping), kind_of(lambda: store.update("u", adding(real_now)))] == [StoreError] * 2
        assert store.get("u") == before
        client.config_set("save", "")
        store.ping()
        store.update("u", adding(real_now))


def test_a_full_server_takes_what_makes_carts_smaller(store: ValkeyStore, admin: Redis, clock: FakeClock) -> None:
    """Nothing grows, and readiness says so; all is read, made smaller, buried and removed, and then there is room."""
    small, large = a_record(clock, note="1"), a_record(clock, note="x" * 1000)
    for user_id in ("shrinks", "buried", "removed", "stays"):
        put(store, user_id, large)
    marked = Record("marked", None, (), (MergeMark("m", "s", False, clock(), clock()),), None, clock() + DAY)  # noqa: FBT003
    with configured(admin, maxmemory=1, maxmemory_policy="noeviction"):
        for call in (
            store.ping,
            lambda: put(store, "new", small),
            lambda: put(store, "new", marked),
            lambda: put(store, "stays", a_record(clock, note="x" * 1001)),
        ):
            assert kind_of(call) is StoreFull
        admin.script_flush()  # it is given again even now
        put(store, "shrinks", small)
        put(store, "buried", Record("t", None, (), (), None, clock() + DAY))
        put(store, "buried", marked)
        remove(store, "removed")
        assert {user_id: record.cart for user_id, record in store.scan()} == {
            "shrinks": small.cart,
            "buried": None,
            "stays": large.cart,
        }
        store.delete("stays")
    store.ping()
    put(store, "new", small)


def test_a_killed_server_is_away_until_it_is_back() -> None:
    """With an append-only file nothing acknowledged is lost; connections of the old one cost no request."""
    with valkey("--appendonly", "yes", "--appendfsync", "always") as server, opened(server.url, timeout=TIME) as store:
        at_once(THREADS, lambda number: store.update(f"u{number}", adding(real_now)))
        for end in (server.kill, server.stop):
            end()
            for name, call in CALLS.items():
                assert (name, kind_of(lambda: call(store, "u0"))) == (name, StoreError)  # noqa: B023 - called at once
            server.start()
            at_once(THREADS, lambda number: store.update(f"u{number}", adding(real_now)))
        assert [quantity(store, f"u{number}") for number in range(THREADS)] == [3] * THREADS


def test_a_restart_costs_no_request() -> None:
    """All connections were cut while nobody used them."""
    with valkey() as server, opened(server.url) as store:
        at_once(THREADS, lambda number: store.get(f"u{number}"))
        server.kill()
        server.start()
        at_once(THREADS, lambda number: store.update(f"u{number}", adding(real_now)))
        assert [quantity(store, f"u{number}") for number in range(THREADS)] == [1] * THREADS


def test_a_new_primary_of_the_same_name_is_found(server: Valkey, admin: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """After READONLY the name is looked up anew: it may lead to another server by now."""
    with valkey() as promoted, opened(server.url) as store:
        at_once(THREADS, lambda _: store.ping())
        admin.execute_command("REPLICAOF", "127.0.0.1", promoted.port)
        try:
            config = store._client.connection_pool.connection_kwargs
            monkeypatch.setitem(config, "port", promoted.port)
            assert kind_of(store.ping) is StoreError
            at_once(THREADS, lambda _: store.update("u", adding(real_now)))
        finally:
            admin.execute_command("REPLICAOF", "NO", "ONE")


# ---- who may ----

PASSWORD = "geheim-p@ss:w/rd"  # noqa: S105 - of a server that lives as long as a test
IN_A_URL = "geheim-p%40ss%3Aw%2Frd"


@pytest.fixture(scope="module")
def locked() -> Iterator[Valkey]:
    """A server that asks for a password; ``shop`` may do what the store needs, ``guest`` only read."""
    with valkey() as running:
        with running.client() as client:
            client.config_set("requirepass", PASSWORD)
            needed = ["+get", "+eval", "+evalsha", "+del", "+scan", "+set", "+getrange", "+select"]
            client.execute_command("ACL", "SETUSER", "shop", "on", f">{PASSWORD}", "~cart:*", *needed)
            client.execute_command("ACL", "SETUSER", "guest", "on", f">{PASSWORD}", "~cart:*", "+get", "+select")
        yield running


def test_user_password_and_database_come_from_the_url(locked: Valkey) -> None:
    """The rights that the docs name are enough for all but the advice."""
    for login in (f":{IN_A_URL}", f"default:{IN_A_URL}", f"shop:{IN_A_URL}"):
        with opened(f"valkey://{login}@127.0.0.1:{locked.port}/5") as store:
            store.ping()
            store.update("u", adding(real_now))
            assert [user_id for user_id, _ in store.scan()] == ["u"]
            store.delete("u")


REFUSED = {
    "no password": ("", "NOAUTH|Authentication required"),
    "a wrong password": ("shop:geheim-wrong@", "invalid username-password"),
    "a wrong user": (f"nobody:{IN_A_URL}@", "invalid username-password"),
    "too few rights": (f"guest:{IN_A_URL}@", "no permissions"),
}


@pytest.mark.parametrize(("login", "says"), REFUSED.values(), ids=REFUSED)
def test_whoever_may_not_is_told_so(locked: Valkey, login: str, says: str, caplog: pytest.LogCaptureFixture) -> None:
    """A StoreError of ours; and no password stands in any error, log or advice."""
    caplog.set_level(logging.DEBUG)
    with opened(f"valkey://{login}127.0.0.1:{locked.port}", timeout=TIME) as store:
        told = []
        for call in (store.ping, lambda: store.update("u", adding(real_now)), lambda: store.delete("u")):
            with pytest.raises(StoreError) as caught:
                call()
            assert type(caught.value) is StoreError
            cause: BaseException | None = caught.value
            while cause is not None:
                told += [str(cause), repr(cause), repr(cause.args)]
                cause = cause.__cause__ or cause.__context__
        assert any(each in text for text in told for each in says.split("|")), told
        told += [*store.startup_warnings(), caplog.text, repr(store), repr(store._client)]
        assert "geheim" not in " ".join(told)


# ---- advice ----


def test_advice_is_for_servers_that_may_lose_carts(server: Valkey, admin: Redis) -> None:
    """One that throws keys out, one that keeps nothing on disk; none for one that does neither."""
    with opened(server.url) as store:
        with configured(admin, maxmemory_policy="noeviction"):
            (said,) = store.startup_warnings()
            assert "appendonly" in said
        with configured(admin, maxmemory_policy="allkeys-lru"):
            evicts, forgets = store.startup_warnings()
            assert "noeviction" in evicts
            assert forgets == said
    with valkey("--appendonly", "yes") as durable, opened(durable.url) as store:
        assert store.startup_warnings() == []


def test_advice_needs_no_server(locked: Valkey) -> None:
    """One that is away, or that does not tell, is no reason not to start; it is said."""
    with valkey() as gone, opened(gone.url, timeout=TIME) as store:
        gone.kill()
        assert "cannot be read" in store.startup_warnings()[0]
        assert "refused" in store.startup_warnings()[0]
    with opened(f"valkey://shop:{IN_A_URL}@127.0.0.1:{locked.port}") as store:
        (said,) = store.startup_warnings()
        assert "cannot be read" in said
        assert "no permissions to run the 'info' command" in said


# ---- time ----


def test_the_server_clears_away_a_day_later(store: ValkeyStore, admin: Redis, clock: FakeClock) -> None:
    """That is only the broom: whether a record is there is decided by our clock."""
    record = put(store, "u", a_record(clock, lives=5 * DAY))
    assert admin.pexpiretime("cart:u") == record.expires_at + DAY
    later = put(store, "u", a_record(clock, lives=9 * DAY))
    assert admin.pexpiretime("cart:u") == later.expires_at + DAY
    clock.advance(9 * DAY)
    assert store.get("u") is None
    assert admin.exists("cart:u") == 1


def test_a_fast_clock_removes_nothing(store: ValkeyStore, server: Valkey, clock: FakeClock) -> None:
    """A machine that is a year ahead reads nothing, sees nothing, and leaves it there for the others."""
    record = put(store, "u", a_record(clock, lives=5 * DAY))
    with opened(server.url, FakeClock(clock() + 365 * DAY)) as fast:
        assert fast.get("u") is None
        assert list(fast.scan()) == []
        assert fast.purge_expired() == 0
        assert fast.update("u", lambda there: (there, there)) is None
        fast.update("other", putting(a_record(clock, lives=400 * DAY)))
    assert store.get("u") == record


# ---- TLS ----


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, ssl.SSLContext]]:
    """Makes an authority of this name: its certificate, and the context of a server that it vouches for."""
    home = tmp_path_factory.mktemp("tls")
    now = datetime.now(UTC)

    def build(subject: str, issuer: str, key: Any, *, ca: bool) -> x509.CertificateBuilder:
        names = [x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, each)]) for each in (subject, issuer)]
        return (
            x509.CertificateBuilder(*reversed(names), key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        )

    def make(name: str) -> tuple[Path, ssl.SSLContext]:
        ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
        ca = build(name, name, ca_key, ca=True).sign(ca_key, hashes.SHA256())
        san = x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))])
        certificate = build("server", name, key, ca=False).add_extension(san, critical=False)
        certificate = certificate.add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False
        )
        trusted, own = home / f"{name}.pem", home / f"{name}-server.pem"
        trusted.write_bytes(ca.public_bytes(serialization.Encoding.PEM))
        own.write_bytes(
            certificate.sign(ca_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
            + key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(own)
        return trusted, context

    return make


@pytest.mark.usefixtures("admin")
def test_it_speaks_tls(server: Valkey, authority: Callable[..., Any], tmp_path: Path) -> None:
    """With the right authority; not with a wrong one, the system's, another host's certificate, or none."""
    trusted, context = authority("right")
    wrong, _ = authority("wrong")
    with proxy(server.port, context=context) as between:
        url = f"valkeys://127.0.0.1:{between.port}"
        with opened(f"{url}?ca_certs={trusted}") as store:
            store.ping()
            for _ in range(20):
                store.update("u", adding(real_now))
            put(store, "large", a_record(real_now, note="x" * 100_000))
            assert len(list(store.scan())) == 2
            assert quantity(store) == 20
            assert between.connections == 1
        for other in (f"{url}?ca_certs={wrong}", url, f"valkeys://localhost:{between.port}?ca_certs={trusted}"):
            between.names()
            with opened(other, timeout=TIME) as store:
                with pytest.raises(StoreError) as caught:
                    store.update("u", adding(real_now))
                assert "CERTIFICATE_VERIFY_FAILED" in str(caught.value.__cause__)
                assert type(caught.value) is StoreError
            assert between.names() == []
        with opened(url_of(between), timeout=TIME) as store:
            assert kind_of(store.ping) is StoreError
    for missing in (tmp_path / "nowhere.pem", tmp_path):
        with pytest.raises(StoreUnusable, match=str(missing)), opened(f"{url}?ca_certs={missing}"):
            pass


@pytest.mark.usefixtures("admin")
@LOST
def test_answers_are_lost_over_tls_as_well(
    server: Valkey, authority: Callable[..., Any], fate: Fate, *, done: bool
) -> None:
    """The same errors, and the same certainty."""
    trusted, context = authority("right")
    with (
        proxy(server.port, context=context) as between,
        opened(f"valkeys://127.0.0.1:{between.port}?ca_certs={trusted}", timeout=TIME) as store,
    ):
        store.ping()
        between.once(WRITE, fate)
        with pytest.raises(OutcomeUnknown):
            store.update("u", adding(real_now))
        assert quantity(store) == int(done)
        between.once("GET", fate)
        assert kind_of(lambda: store.get("u")) is StoreError


@pytest.mark.usefixtures("admin")
def test_gevent_speaks_tls(server: Valkey, authority: Callable[..., Any]) -> None:
    """As gunicorn serves it."""
    trusted, context = authority("right")
    with (
        proxy(server.port, context=context) as between,
        Child(
            f"valkeys://127.0.0.1:{between.port}?ca_certs={trusted}", greenlets=True, workers=20, adds=3, carts=3
        ) as child,
    ):
        child.wait()
        child.begin()
        assert child.told()["added"] == 60


def test_a_host_that_cannot_be_is_away() -> None:
    """A name that nobody has; and those that a URL refuses already: with an empty part, or one that is too long."""
    for host in ("a..b", "x" * 64, "nowhere.invalid"):
        store = ValkeyStore(ValkeyConfig(hosts=((host, 6379),)), clock=real_now, timeout=AMPLE)
        assert kind_of(store.ping) is StoreError
        store.close()
