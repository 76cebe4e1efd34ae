"""Run by programs.rs: objects from Python's sqlite3, and from SQLite's C interface.

LIBRARY names the library. Python often comes without `enable_load_extension`; then the library is registered
as an automatic extension with the shared SQLite that the module uses.
"""

import ctypes
import ctypes.util
import multiprocessing
import os
import resource
import sqlite3
import subprocess
import sys
import threading

LIBRARY = os.environ["LIBRARY"]
STORE = os.path.abspath("data")


def shared_sqlite():
    """The SQLite of the module `sqlite3`, if it is a shared library."""
    try:
        with open("/proc/self/maps") as maps:
            names = {line.split()[-1] for line in maps if "libsqlite3" in line}
    except OSError:
        names = set()
    return ctypes.CDLL(names.pop()) if names else None


def register():
    """Registers the VFS, one way or the other. Returns whether it could."""
    plain = sqlite3.connect(":memory:")
    if hasattr(plain, "enable_load_extension"):
        plain.enable_load_extension(True)
        plain.load_extension(LIBRARY)
        plain.load_extension(LIBRARY)  # And once more.
        plain.close()
        return True
    plain.close()
    host = shared_sqlite()
    if host is None:
        return False
    library = ctypes.CDLL(LIBRARY)
    assert host.sqlite3_auto_extension(library.dovehouse_sqlbridge_auto_init) == 0
    sqlite3.connect(":memory:").close()
    host.sqlite3_cancel_auto_extension(library.dovehouse_sqlbridge_auto_init)
    return True


def uri(name, **parameters):
    more = "".join(f"&{key}={value}" for key, value in parameters.items())
    return f"file:{name}?vfs=dovehouse&store={STORE}{more}"


def connect(name, timeout=30, **parameters):
    return sqlite3.connect(uri(name, **parameters), uri=True, timeout=timeout)


def one(connection, sql):
    return connection.execute(sql).fetchone()[0]


def refused(act):
    try:
        act()
    except sqlite3.OperationalError as error:
        return str(error)
    raise AssertionError("it was not refused")


def threads():
    """Four connections count in one object, and each waits for the others."""
    with connect("Room/count") as first:
        first.execute("CREATE TABLE t(n)")
        first.execute("INSERT INTO t VALUES (0)")

    def count():
        connection = connect("Room/count")
        for _ in range(25):
            with connection:
                connection.execute("BEGIN IMMEDIATE")
                connection.execute("UPDATE t SET n = n + 1")
        connection.close()

    workers = [threading.Thread(target=count) for _ in range(4)]
    [worker.start() for worker in workers]
    [worker.join() for worker in workers]
    assert one(first, "SELECT n FROM t") == 100
    first.execute("BEGIN IMMEDIATE")
    message = refused(lambda: connect("Room/count", timeout=0).execute("UPDATE t SET n = 0"))
    assert message == "database is locked", message
    first.rollback()
    first.close()


def rows():
    connection = connect("Room/rows")
    assert one(connection, "PRAGMA journal_mode = WAL") == "delete"
    connection.executescript("CREATE TABLE t(id INTEGER PRIMARY KEY, a BLOB); CREATE VIRTUAL TABLE f USING fts5(x)")
    with connection:
        rows = [(bytes([n % 256]) * 3000,) for n in range(700)]
        connection.executemany("INSERT INTO t(a) VALUES (?)", rows)
        connection.execute("INSERT INTO f VALUES ('a dove in its hole')")
    try:
        with connection:
            connection.execute("DELETE FROM t")
            raise ValueError
    except ValueError:
        pass
    if hasattr(connection, "blobopen"):
        with connection, connection.blobopen("t", "a", 5) as blob:
            blob.seek(1000)
            blob.write(b"dove")
    else:
        with connection:
            connection.execute("UPDATE t SET a = substr(a, 1, 1000) || x'646f7665' WHERE id = 5")
    connection.close()
    connection = connect("Room/rows", mode="ro")
    assert one(connection, "SELECT count(*) FROM t") == 700
    assert one(connection, "SELECT substr(a, 1001, 4) FROM t WHERE id = 5") == b"dove"
    assert one(connection, "SELECT count(*) FROM f WHERE f MATCH 'dove'") == 1
    assert one(connection, "PRAGMA integrity_check") == "ok"
    # Out of the store and back again.
    plain = sqlite3.connect("plain.sqlite")
    connection.backup(plain)
    back = connect("Room/back")
    plain.backup(back)
    assert one(back, "SELECT count(*) FROM t") == 700
    for open_one in (connection, plain, back):
        open_one.close()
    assert refused(lambda: connect("Room/absent", mode="rw").execute("SELECT 1"))


def second_process():
    """Nobody else opens the store, neither a child by fork nor another program."""
    connection = connect("Room/rows")
    child = multiprocessing.get_context("fork").Process(target=forked, args=(connection,))
    child.start()
    child.join()
    assert child.exitcode == 0
    other = subprocess.run([sys.executable, __file__, "second"], capture_output=True, text=True)
    assert "unable to open database file" in other.stdout, other
    assert one(connection, "SELECT count(*) FROM t") == 700
    connection.close()
    other = subprocess.run([sys.executable, __file__, "second"], capture_output=True, text=True)
    assert other.stdout == "700\n", other


def failed_write():
    """A write to the log fails: the commit says so, and so does all that follows until the object is opened again."""
    connection = connect("Room/failed")
    connection.executescript("CREATE TABLE t(a); INSERT INTO t VALUES (1)")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    connection.execute("INSERT INTO t VALUES (2)")
    assert refused(connection.commit) == "disk I/O error"
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert refused(lambda: connection.execute("SELECT * FROM t")) == "disk I/O error"
    connection.close()
    connection = connect("Room/failed")
    assert one(connection, "SELECT count(*) FROM t") == 1
    connection.close()


def forked(connection):
    assert refused(lambda: connection.execute("SELECT count(*) FROM t"))
    assert refused(lambda: connect("Room/rows"))
    os._exit(0)


def second():
    try:
        print(one(connect("Room/rows"), "SELECT count(*) FROM t"))
    except sqlite3.OperationalError as error:
        print(error)


def c_interface():
    """A program that shuts SQLite down and starts it again. Its default VFS is then the system's once more."""
    host = shared_sqlite()
    if host is None:
        return "left out: Python's SQLite is no shared library, so its C interface is not called"
    library = ctypes.CDLL(LIBRARY)
    init = library.sqlite3_dovehousesqlbridge_init
    os.environ["DOVEHOUSE_DEFAULT_VFS"] = "1"
    os.environ["DOVEHOUSE_STORE"] = STORE
    # Through the C library, so that the Rust side sees them as well.
    libc = ctypes.CDLL(None)
    libc.setenv(b"DOVEHOUSE_DEFAULT_VFS", b"1", 1)
    libc.setenv(b"DOVEHOUSE_STORE", STORE.encode(), 1)

    def open_and_sum(name):
        database = ctypes.c_void_p()
        flags = 0x2 | 0x4 | 0x40
        assert host.sqlite3_open_v2(name, ctypes.byref(database), flags, None) == 0
        vfs = ctypes.c_char_p()
        assert host.sqlite3_file_control(database, b"main", 12, ctypes.byref(vfs)) == 0
        sql = b"CREATE TABLE IF NOT EXISTS t(a); INSERT INTO t VALUES (1)"
        assert host.sqlite3_exec(database, sql, None, None, None) == 0
        rows = host.sqlite3_total_changes(database)
        assert host.sqlite3_close(database) == 0
        return vfs.value, rows

    # No connection and no table: the last SQLite that gave one.
    assert init(None, None, None) == 256
    assert open_and_sum(b"Room/default") == (b"dovehouse", 1)
    assert host.sqlite3_shutdown() == 0
    assert host.sqlite3_initialize() == 0
    assert open_and_sum(b"default.sqlite")[0] == b"unix"
    named = f"file:Room/default?vfs=dovehouse&store={STORE}".encode()
    assert open_and_sum(named)[0] == b"dovehouse"
    assert init(None, None, None) == 256
    assert open_and_sum(b"Room/default")[0] == b"dovehouse"
    return "ok"


if not register():
    print("left out: this Python loads no extensions, and its SQLite is no shared library")
elif sys.argv[1:] == ["second"]:
    second()
else:
    print("SQLite", sqlite3.sqlite_version)
    threads()
    rows()
    second_process()
    failed_write()
    print(c_interface())
