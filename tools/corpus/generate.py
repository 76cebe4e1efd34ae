#!/usr/bin/env python3
"""Writes the mechanical part of the corpus, tools/corpus/generated-*.test.

Always the same files: everything random comes from a seed. What a query must give is what SQLite gives; the
one of Python will do, since nothing here depends on its version.

    python3 tools/corpus/generate.py
"""

import hashlib
import random
import sqlite3
from pathlib import Path

THRESHOLD = 12


class Script:
    """A script under construction, with the database that knows its results."""

    def __init__(self, name, about):
        self.random = random.Random(name)
        self.path = Path(__file__).with_name(f"generated-{name}.test")
        self.out = [f"# {about}", "# Written by generate.py.", "", f"hash-threshold {THRESHOLD}", ""]
        self.database = sqlite3.connect(":memory:", isolation_level=None)

    def statement(self, sql):
        try:
            self.database.execute(sql)
            expected = "ok"
        except sqlite3.IntegrityError:
            expected = "error"
        self.out += [f"statement {expected}", sql, ""]

    def query(self, types, sql, sort="nosort", label=""):
        rows = self.database.execute(sql).fetchall()
        rows = [[self.formatted(kind, value) for kind, value in zip(types, row, strict=True)] for row in rows]
        if sort == "rowsort":
            rows.sort()
        values = [value for row in rows for value in row]
        if sort == "valuesort":
            values.sort()
        if len(values) > THRESHOLD:
            md5 = hashlib.md5("".join(value + "\n" for value in values).encode()).hexdigest()
            values = [f"{len(values)} values hashing to {md5}"]
        self.out += [f"query {types} {sort} {label}".rstrip(), sql, "----", *values, ""]

    def formatted(self, kind, value):
        if value is None:
            return "NULL"
        if kind == "R":
            return self.database.execute("SELECT printf('%.3f', ?)", (value,)).fetchone()[0]
        if kind == "I":
            return str(int(value))
        # Texts here are printable.
        return value or "(empty)"

    def write(self):
        self.path.write_text("\n".join(self.out))


class Terms:
    """Random SQL over columns that hold integers and NULL."""

    def __init__(self, script, columns):
        self.random, self.columns = script.random, columns

    def number(self, depth=2):
        pick = self.random.randrange(9 if depth else 2)
        term = lambda: self.number(depth - 1)
        match pick:
            case 0:
                return self.random.choice(self.columns)
            case 1:
                return str(self.random.randrange(-20, 120))
            case 2 | 3 | 4:
                return f"({term()} {self.random.choice('+-*')} {term()})"
            case 5:
                return f"abs({term()})"
            case 6:
                return f"coalesce({term()}, {term()})"
            case 7:
                return f"CASE WHEN {self.truth(depth - 1)} THEN {term()} ELSE {term()} END"
            case _:
                return f"({term()} {self.random.choice(['/', '%', '&', '|'])} {self.random.choice([2, 3, 7, 64])})"

    def truth(self, depth=2):
        pick = self.random.randrange(9 if depth else 3)
        term = lambda: self.number(max(depth - 1, 0))
        match pick:
            case 0 | 1:
                return f"{term()} {self.random.choice(['<', '<=', '=', '<>', '>', '>=', 'IS', 'IS NOT'])} {term()}"
            case 2:
                return f"{self.random.choice(self.columns)} IS {self.random.choice(['', 'NOT '])}NULL"
            case 3:
                low = self.random.randrange(90)
                return f"{term()} {self.random.choice(['', 'NOT '])}BETWEEN {low} AND {low + self.random.randrange(40)}"
            case 4:
                numbers = ", ".join(str(self.random.randrange(100)) for _ in range(self.random.randrange(1, 7)))
                return f"{term()} {self.random.choice(['', 'NOT '])}IN ({numbers})"
            case 5:
                return f"NOT ({self.truth(depth - 1)})"
            case _:
                return f"({self.truth(depth - 1)} {self.random.choice(['AND', 'OR'])} {self.truth(depth - 1)})"


def fill(script, table, columns, rows, keyed=False):
    """Rows of small integers, some of them NULL."""
    for key in range(1, rows + 1):
        values = ["NULL" if script.random.random() < 0.1 else str(script.random.randrange(100)) for _ in columns]
        if keyed:
            values[0] = str(key)
        script.statement(f"INSERT INTO {table}({', '.join(columns)}) VALUES ({', '.join(values)})")


def expressions():
    script = Script("expressions", "Terms of numbers, conditions and NULL.")
    script.statement("CREATE TABLE t(a INTEGER, b INTEGER, c INTEGER)")
    fill(script, "t", ["a", "b", "c"], 12)
    terms = Terms(script, ["a", "b", "c"])
    for _ in range(900):
        match script.random.randrange(3):
            case 0:
                script.query("I", f"SELECT {terms.number(3)} FROM t", "rowsort")
            case 1:
                script.query("I", f"SELECT count(*) FROM t WHERE {terms.truth(3)}")
            case _:
                script.query("II", f"SELECT DISTINCT {terms.number()}, {terms.truth()} FROM t", "rowsort")
    script.write()


def selects():
    script = Script("selects", "Each query by every way to its rows: with indexes, without, and on a table WITHOUT ROWID.")
    columns = ["k", "a", "b", "c"]
    script.statement("CREATE TABLE plain(k INTEGER, a INTEGER, b INTEGER, c INTEGER)")
    script.statement("CREATE TABLE indexed(k INTEGER PRIMARY KEY, a INTEGER, b INTEGER, c INTEGER)")
    script.statement("CREATE TABLE clustered(k INTEGER PRIMARY KEY, a INTEGER, b INTEGER, c INTEGER) WITHOUT ROWID")
    fill(script, "plain", columns, 60, keyed=True)
    script.statement("CREATE INDEX indexed_a ON indexed(a)")
    script.statement("INSERT INTO indexed SELECT * FROM plain")
    script.statement("INSERT INTO clustered SELECT * FROM plain ORDER BY c")
    script.statement("CREATE INDEX indexed_bc ON indexed(b DESC, c)")
    script.statement("CREATE INDEX clustered_c ON clustered(c) WHERE c > 20")
    terms = Terms(script, columns)
    for number in range(300):
        what = script.random.choice(["k", "k, a", "a, b, c", "k, a + b"])
        order = script.random.choice(["", " ORDER BY k", " ORDER BY b DESC, k", " ORDER BY 1 LIMIT 5", " ORDER BY k LIMIT 7 OFFSET 3"])
        where = terms.truth(2)
        if script.random.random() < 0.5:
            low = script.random.randrange(80)
            where = f"{script.random.choice('abc')} BETWEEN {low} AND {low + 25} AND {where}"
        # Without an order that decides, only the values as a whole are the same.
        sort = "nosort" if "k" in order or (order and what.startswith("k")) else "rowsort"
        if "LIMIT 5" in order and not what.startswith("k"):
            order = ""
        for table in ["plain", "indexed", "clustered"]:
            types = "I" * (what.count(",") + 1)
            script.query(types, f"SELECT {what} FROM {table} WHERE {where}{order}", sort, f"select-{number}")
    script.write()


def joins():
    script = Script("joins", "Inner, left and crossed joins of three tables, and the same as subqueries.")
    for table, rows in [("r", 25), ("s", 20), ("u", 15)]:
        columns = [f"{table}a", f"{table}b", f"{table}c"]
        script.statement(f"CREATE TABLE {table}({', '.join(column + ' INTEGER' for column in columns)})")
        fill(script, table, columns, rows)
        script.statement(f"UPDATE {table} SET {table}b = {table}b % 10, {table}c = {table}c % 6")
    for number in range(240):
        if number == 80:
            script.statement("CREATE INDEX rb ON r(rb)")
            script.statement("CREATE INDEX sbc ON s(sb, sc)")
        if number == 160:
            script.statement("CREATE INDEX uc ON u(uc)")
            script.statement("DELETE FROM s WHERE sa % 3 = 0")
            script.statement("ANALYZE")
        column = lambda table: table + script.random.choice("bc")
        join = script.random.choice(["JOIN", "LEFT JOIN", "JOIN", "CROSS JOIN"])
        where = Terms(script, ["ra", "rb", "sb", "sc"]).truth(1)
        match script.random.randrange(5):
            case 0:
                script.query("II", f"SELECT ra, sa FROM r {join} s ON {column('r')} = {column('s')} WHERE {where}", "rowsort")
            case 1:
                on = f"{column('r')} = {column('s')} {join} u ON {column('s')} = {column('u')}"
                script.query("III", f"SELECT ra, sa, ua FROM r {join} s ON {on} WHERE {where}", "valuesort")
            case 2:
                script.query("I", f"SELECT count(*) FROM r, s, u WHERE {column('r')} = {column('s')} AND {column('s')} = {column('u')} AND {where}")
            case 3:
                pair, more = (column("r"), column("s")), Terms(script, ["ra", "rb", "sa"]).truth(1)
                label = f"exists-{number}"
                script.query("I", f"SELECT DISTINCT ra FROM r JOIN s ON {pair[0]} = {pair[1]} WHERE {more}", "rowsort", label)
                script.query("I", f"SELECT DISTINCT ra FROM r WHERE EXISTS (SELECT 1 FROM s WHERE {pair[0]} = {pair[1]} AND {more})", "rowsort", label)
            case _:
                kind = script.random.choice(["UNION", "UNION ALL", "INTERSECT", "EXCEPT"])
                script.query("I", f"SELECT {column('r')} FROM r WHERE {Terms(script, ['ra', 'rb']).truth(1)} {kind} SELECT {column('s')} FROM s", "rowsort")
    script.write()


def aggregates():
    script = Script("aggregates", "Aggregates and windows over groups.")
    script.statement("CREATE TABLE t(g INTEGER, h INTEGER, v INTEGER)")
    fill(script, "t", ["g", "h", "v"], 50)
    script.statement("UPDATE t SET g = g % 4, h = h % 7")
    terms = Terms(script, ["g", "h", "v"])
    functions = ["count", "sum", "min", "max", "total", "avg"]
    for number in range(500):
        if number == 250:
            script.statement("CREATE INDEX gh ON t(g, h)")
        function = script.random.choice(functions)
        kind = "R" if function in ("total", "avg") else "I"
        distinct = script.random.choice(["", "", "DISTINCT "])
        call = f"{function}({distinct}{terms.number(1)})"
        match script.random.randrange(4):
            case 0:
                script.query(kind, f"SELECT {call} FROM t WHERE {terms.truth(1)}")
            case 1:
                script.query("I" + kind, f"SELECT g, {call} FROM t GROUP BY g", "rowsort")
            case 2:
                script.query("II" + kind, f"SELECT g, h, {call} FROM t WHERE {terms.truth(1)} GROUP BY g, h HAVING count(*) > 1", "rowsort")
            case _:
                call = call.replace("DISTINCT ", "")
                frame = script.random.choice(["", " ROWS BETWEEN 2 PRECEDING AND CURRENT ROW", " RANGE BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW", " GROUPS 1 PRECEDING"])
                script.query("I" + kind, f"SELECT v, {call} OVER (PARTITION BY g ORDER BY v, h, rowid{frame}) FROM t", "rowsort")
    script.write()


def changes():
    script = Script("changes", "Writes of every kind, in transactions that are kept or undone, each followed by looks at the table.")
    script.statement("CREATE TABLE t(id INTEGER PRIMARY KEY, n INTEGER UNIQUE, b INTEGER CHECK (b < 1000), s TEXT)")
    script.statement("CREATE INDEX t_s ON t(s)")
    script.statement("CREATE TABLE log(what TEXT, id INTEGER)")
    script.statement("CREATE TRIGGER t_gone AFTER DELETE ON t BEGIN INSERT INTO log VALUES ('gone', old.id); END")
    pick, inside = script.random, False
    for number in range(650):
        if pick.random() < 0.12:
            script.statement(pick.choice(["COMMIT", "COMMIT", "ROLLBACK"]) if inside else "BEGIN")
            inside = not inside
        key, n, b = pick.randrange(200), pick.randrange(400), pick.randrange(1040)
        # Now and then longer than a page.
        length = pick.choice([0, 5, 40, 300, 300, 6000])
        text = f"substr(hex(zeroblob({length})), 1, {length}) || '{number}'"
        conflict = pick.choice(["", "", " OR IGNORE", " OR REPLACE"])
        match pick.randrange(8):
            case 0 | 1 | 2:
                script.statement(f"INSERT{conflict} INTO t VALUES ({key}, {n}, {b}, {text})")
            case 3:
                script.statement(f"INSERT INTO t VALUES ({key}, {n}, {b % 900}, {text}) ON CONFLICT(id) DO UPDATE SET b = excluded.b, s = excluded.s")
            case 4:
                script.statement(f"UPDATE{conflict} t SET n = n + {pick.randrange(3)}, s = {text} WHERE id BETWEEN {key} AND {key + 5}")
            case 5:
                script.statement(f"UPDATE t SET b = b + {pick.randrange(60)} WHERE n > {n}")
            case 6:
                script.statement(f"DELETE FROM t WHERE id BETWEEN {key} AND {key + pick.randrange(9)}")
            case _:
                script.statement(f"INSERT{conflict} INTO t(n, b, s) SELECT n + 401, b, s FROM t WHERE id < {key % 20}")
        match pick.randrange(4):
            case 0:
                script.query("IIII", "SELECT count(*), total(n), total(b), total(length(s)) FROM t")
            case 1:
                script.query("IIIT", f"SELECT id, n, b, substr(s, -8) FROM t WHERE id > {key} ORDER BY id LIMIT 3")
            case 2:
                script.query("II", f"SELECT id, length(s) FROM t WHERE s > '0{key}' ORDER BY s, id LIMIT 4")
            case _:
                script.query("II", "SELECT count(*), max(rowid) FROM log")
    if inside:
        script.statement("COMMIT")
    script.query("IIIT", "SELECT id, n, b, s FROM t ORDER BY id")
    script.query("T", "PRAGMA integrity_check")
    script.write()


if __name__ == "__main__":
    for write in [expressions, selects, joins, aggregates, changes]:
        write()
