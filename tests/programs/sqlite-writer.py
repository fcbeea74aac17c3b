"""Writes to a SQLite database without end and checks what it wrote. See README.md.

SQLite compares the file's inode with the one it opened, holds locks and maps the WAL's index: all of that has to move.
"""

import hashlib
import os
import sqlite3
import sys
import time


def bad(what, expected, found):
    print(f"BAD {what}: expected {expected}, found {found}", flush=True)
    sys.exit(1)


def content(number):
    return hashlib.sha256(str(number).encode()).hexdigest() * (1 + number % 40)


def check_rows(db, rows, everything):
    """The table holds 1..rows. The content of the newest ones, or of all, is compared."""
    expected = (rows, rows * (rows + 1) // 2)
    found = db.execute("SELECT count(*), coalesce(sum(number), 0) FROM record").fetchone()
    if found != expected:
        bad("count and sum of the rows", expected, found)
    oldest = 1 if everything else max(1, rows - 20)
    for number, text in db.execute("SELECT number, text FROM record WHERE number >= ?", (oldest,)):
        if text != content(number):
            bad(f"content of row {number}", content(number)[:20], text[:20])


def main():
    if len(sys.argv) != 2 or sys.argv[1] not in ("wal", "delete"):
        sys.exit("usage: sqlite-writer.py wal|delete")
    mode = sys.argv[1]
    db = sqlite3.connect(f"writer-{mode}.db", isolation_level=None)
    found = db.execute(f"PRAGMA journal_mode={mode}").fetchone()[0]
    if found != mode:
        bad("journal mode", mode, found)
    db.execute("PRAGMA synchronous=FULL")
    db.execute("CREATE TABLE IF NOT EXISTS record (number INTEGER PRIMARY KEY, text TEXT)")
    rows = db.execute("SELECT coalesce(max(number), 0) FROM record").fetchone()[0]
    cycle = 0
    while True:
        cycle += 1
        db.execute("BEGIN IMMEDIATE")
        for number in range(rows + 1, rows + 6):
            db.execute("INSERT INTO record VALUES (?, ?)", (number, content(number)))
        db.execute("COMMIT")
        rows += 5
        check_rows(db, rows, everything=cycle % 100 == 0)
        print(f"ok {cycle} rows={rows}", flush=True)
        if os.path.exists("stop"):
            break
        time.sleep(0.02)
    verdict = db.execute("PRAGMA integrity_check").fetchone()[0]
    if verdict != "ok":
        bad("integrity check", "ok", verdict)
    check_rows(db, rows, everything=True)
    db.close()
    print(f"done {rows}", flush=True)


try:
    main()
except sqlite3.Error as error:
    bad("SQLite", "success", f"{type(error).__name__}: {error}")
